// SPDX-License-Identifier: GPL-2.0

//! Images that can do no harm: wherever in them a CPU starts, it sleeps.
//!
//! A spawn that faults resets an emulated machine, and with it the test. So nothing is loaded but
//! this code, and what would make a CPU enter anything else is not passed to the kernel.

use multikernel_sys::kexec_segment;

/// `cli; hlt; jmp` back to the first, in four bytes of which each begins an instruction: the last
/// byte of the jump, taken for itself, is `cld`.
const SLEEP: [u8; 4] = [0xfa, 0xf4, 0xeb, 0xfc];

/// Bytes from the entry on that must be code, so that from each of the four one gets to sleep. The
/// second and the third also need those before them, to which the jump goes.
const NEEDED: u64 = 8;

/// Fills memory with it.
pub fn fill(code: &mut [u8]) {
    for (i, byte) in code.iter_mut().enumerate() {
        *byte = SLEEP[i % SLEEP.len()];
    }
}

/// Whether a CPU that entered this image would sleep, or the kernel cannot accept it.
///
/// `code` is where there is nothing but code in this process: address and size. What a segment has
/// beyond its bytes to copy is zeroes, which are instructions that write to memory.
pub fn is_safe(segments: &[kexec_segment], entry: u64, code: (u64, u64)) -> bool {
    let (code_base, code_size) = code;
    segments.iter().all(|segment| {
        let inside = entry.checked_sub(segment.mem);
        let Some(offset) = inside.filter(|&offset| offset < segment.memsz as u64) else {
            return true;
        };
        let buf = segment.buf as u64;
        let Some(at) = buf.checked_sub(code_base) else {
            return false;
        };
        let from_code = at
            .checked_add(segment.bufsz as u64)
            .is_some_and(|end| end <= code_size);
        let copied = offset
            .checked_add(NEEDED)
            .is_some_and(|end| end <= segment.bufsz as u64);
        from_code && copied && offset >= (at + offset) % SLEEP.len() as u64
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: (u64, u64) = (0x1000_0000, 0x10_0000);

    fn segment(buf: u64, bufsz: usize, mem: u64, memsz: usize) -> kexec_segment {
        kexec_segment {
            buf: buf as *const libc::c_void,
            bufsz,
            mem,
            memsz,
        }
    }

    #[test]
    fn from_each_byte_one_gets_to_sleep() {
        let mut code = [0; 64];
        fill(&mut code);
        for entry in 0..code.len() - NEEDED as usize {
            let (mut at, mut slept) = (entry, false);
            for _ in 0..8 {
                match code[at] {
                    0xfa | 0xfc => at += 1,
                    0xf4 => {
                        slept = true;
                        at += 1;
                    }
                    0xeb => at = (at as i64 + 2 + i64::from(code[at + 1] as i8)) as usize,
                    other => panic!("{other:#x} is no instruction of ours"),
                }
                assert!(at < entry + NEEDED as usize && at + 4 > entry);
            }
            assert!(slept);
        }
    }

    #[test]
    fn only_code_may_be_entered() {
        let base = 0x200_0000;
        let good = segment(CODE.0, 0x2000, base, 0x2000);
        assert!(is_safe(&[good], base, CODE));
        assert!(is_safe(&[good], base + 0x1ff8, CODE));
        // The kernel refuses an entry that is nowhere.
        assert!(is_safe(&[good], base - 1, CODE));
        assert!(is_safe(&[good], base + 0x2000, CODE));
        // The last bytes run out of the segment.
        assert!(!is_safe(&[good], base + 0x1ff9, CODE));
        // What follows the bytes to copy is zero.
        let short = segment(CODE.0, 0x1000, base, 0x2000);
        assert!(is_safe(&[short], base + 0xff8, CODE));
        assert!(!is_safe(&[short], base + 0x1000, CODE));
        // The jump would go to before the segment.
        let torn = segment(CODE.0 + 2, 0x2000, base, 0x2000);
        assert!(!is_safe(&[torn], base, CODE));
        assert!(is_safe(&[torn], base + 2, CODE));
        // Of something else, or beyond the code.
        let other = segment(0x5000, 0x2000, base, 0x2000);
        assert!(!is_safe(&[other], base, CODE));
        let beyond = segment(CODE.0 + CODE.1 - 0x1000, 0x2000, base, 0x2000);
        assert!(!is_safe(&[beyond], base, CODE));
        // Any segment that holds the entry counts, whatever the kernel makes of two.
        assert!(!is_safe(&[good, short], base + 0x1800, CODE));
    }
}
