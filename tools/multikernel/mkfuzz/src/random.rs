// SPDX-License-Identifier: GPL-2.0

//! Random numbers from a seed, and values that are more likely to hurt than random ones.

/// SplitMix64: small, and every seed is as good as any other.
#[derive(Clone, Debug)]
pub struct Random(u64);

/// Values at which comparisons, masks and additions go wrong.
const INTERESTING: [u64; 24] = [
    0,
    1,
    2,
    7,
    8,
    63,
    64,
    0xfff,
    0x1000,
    0x1001,
    0x1f_ffff,
    0x20_0000,
    0x40_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_f000,
    0xffff_ffff,
    1 << 32,
    0x7fff_ffff_f000,
    1 << 47,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_f000,
    u64::MAX,
];

impl Random {
    /// The numbers of one process: of the run's seed, the process's number, and its life.
    pub fn new(seed: u64, process: u64, life: u64) -> Self {
        let mut random = Self(seed);
        random.0 ^= random.next().wrapping_add(process);
        random.0 ^= random.next().wrapping_add(life);
        random
    }

    /// Any number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`; 0 if that is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        match limit {
            0 => 0,
            limit => (self.next() % limit as u64) as usize,
        }
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of several.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len()))
    }

    /// A value of the kind that is got wrong.
    pub fn interesting(&mut self) -> u64 {
        let value = INTERESTING[self.below(INTERESTING.len())];
        match self.below(4) {
            0 => value.wrapping_add(1),
            1 => value.wrapping_sub(1),
            _ => value,
        }
    }

    /// Changes one to three words, of 32 or 64 bits, of a structure.
    pub fn mutate(&mut self, bytes: &mut [u8]) {
        for _ in 0..=self.below(3) {
            let width = if self.once_in(2) { 4 } else { 8 };
            if bytes.len() < width {
                return;
            }
            let at = self.below(bytes.len() / width) * width;
            let mut word = [0; 8];
            word[..width].copy_from_slice(&bytes[at..at + width]);
            let old = u64::from_le_bytes(word);
            let new = match self.below(4) {
                0 => self.next(),
                1 => old ^ (1 << self.below(width * 8)),
                2 => old.wrapping_add(self.next() % 33).wrapping_sub(16),
                _ => self.interesting(),
            };
            bytes[at..at + width].copy_from_slice(&new.to_le_bytes()[..width]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_numbers_again() {
        let numbers = |mut random: Random| [random.next(), random.next(), random.next()];
        assert_eq!(numbers(Random::new(1, 2, 3)), numbers(Random::new(1, 2, 3)));
        assert_ne!(numbers(Random::new(1, 2, 3)), numbers(Random::new(1, 2, 4)));
        assert_ne!(numbers(Random::new(1, 2, 3)), numbers(Random::new(1, 3, 3)));
    }

    #[test]
    fn mutation_changes_something_and_keeps_the_length() {
        let mut random = Random::new(1, 0, 0);
        let mut changed = 0;
        for length in [0, 3, 4, 7, 8, 112] {
            for _ in 0..100 {
                let mut bytes = vec![0x55; length];
                random.mutate(&mut bytes);
                assert_eq!(bytes.len(), length);
                changed += usize::from(bytes.iter().any(|&byte| byte != 0x55));
            }
        }
        assert!(changed > 300);
    }
}
