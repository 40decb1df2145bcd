// SPDX-License-Identifier: GPL-2.0

//! Both sides of the shared area, the spawn's made up.

use super::*;
use proptest::prelude::*;

fn memory() -> Vec<AtomicU64> {
    (0..SHARED_SIZE / WORD).map(|_| AtomicU64::new(0)).collect()
}

fn put(area: &Area<'_>, offset: u64, byte: u8) {
    let word = area.word(offset);
    let shift = 8 * (offset % WORD);
    let others = word.load(Ordering::Relaxed) & !(0xff << shift);
    word.store(others | u64::from(byte) << shift, Ordering::Relaxed);
}

fn put_u32(area: &Area<'_>, offset: usize, value: u32) {
    for (i, byte) in value.to_le_bytes().into_iter().enumerate() {
        put(area, (offset + i) as u64, byte);
    }
}

fn start(area: &Area<'_>) {
    area.word(0).store(abi::SHARED_MAGIC, Ordering::Relaxed);
    put_u32(area, offset_of!(SharedHeader, version), abi::ABI_VERSION);
    put_u32(area, offset_of!(SharedHeader, id), 3);
    put_u32(area, offset_of!(SharedHeader, epoch), 2);
    for (i, byte) in b"web".iter().enumerate() {
        put(area, (offset_of!(SharedHeader, name) + i) as u64, *byte);
    }
}

/// The spawn's side, as the ABI has it.
fn spawn_writes(area: &Area<'_>, bytes: &[u8]) {
    let word = area.position(0, 0);
    let tail = word.load(Ordering::Relaxed);
    for (position, &byte) in (tail..).zip(bytes) {
        put(
            area,
            CONSOLE_OUT_OFFSET + (position & (CONSOLE_OUT_SIZE - 1)),
            byte,
        );
    }
    word.store(tail + bytes.len() as u64, Ordering::Release);
}

fn spawn_reads(area: &Area<'_>, count: u64) -> Vec<u8> {
    let ring = offset_of!(ConsoleRings, input);
    let tail = area.position(ring, 0).load(Ordering::Acquire);
    let head = area.position(ring, 64);
    let first = head.load(Ordering::Relaxed);
    let end = tail.min(first + count);
    let bytes = (first..end)
        .map(|position| {
            let offset = CONSOLE_IN_OFFSET + (position & (CONSOLE_IN_SIZE - 1));
            (area.word(offset).load(Ordering::Relaxed) >> (8 * (offset % WORD))) as u8
        })
        .collect();
    head.store(end, Ordering::Release);
    bytes
}

#[test]
fn header_is_checked() {
    let memory = memory();
    let area = Area::new(&memory).unwrap();
    assert_eq!(area.header(), Err(SharedError::NeverStarted));
    start(&area);
    let header = area.header().unwrap();
    assert_eq!((header.id, header.epoch), (3, 2));
    assert_eq!(area.name(), "web");
    assert!(!header.has_console());
    put_u32(&area, offset_of!(SharedHeader, version), 9);
    assert_eq!(area.header(), Err(SharedError::Version(9)));
    put(&area, 0, b'X');
    assert_eq!(area.header(), Err(SharedError::Damaged));
    assert!(Area::new(&memory[1..]).is_err());
}

#[test]
fn what_a_panic_leaves_behind() {
    let memory = memory();
    let area = Area::new(&memory).unwrap();
    start(&area);
    assert_eq!(area.message(), "");
    let text = b"Fatal exception\nin \x1b[31minterrupt";
    for (i, byte) in text.iter().enumerate() {
        put(
            &area,
            (offset_of!(SharedHeader, end_message) + i) as u64,
            *byte,
        );
    }
    put_u32(&area, offset_of!(SharedHeader, end_apic_id), 3);
    assert_eq!(area.message(), "Fatal exception in ?[31minterrupt");
    assert_eq!(area.header().unwrap().end_apic_id, 3);

    assert_eq!(area.registers(1), None);
    let second = CPU_REGISTERS_OFFSET + 256;
    put_u32(&area, second as usize, REGISTERS_VALID);
    put_u32(&area, second as usize + 4, 9);
    for i in 0..27 {
        area.word(second + 8 + 8 * i)
            .store(100 + i, Ordering::Relaxed);
    }
    area.word(second + 224).store(0xcccc, Ordering::Relaxed);
    area.word(second + 232).store(0xdddd, Ordering::Relaxed);
    let registers = area.registers(1).unwrap();
    assert_eq!(
        (registers.apic_id, registers.user[0], registers.user[26]),
        (9, 100, 126)
    );
    assert_eq!((registers.cr2, registers.cr3), (0xcccc, 0xdddd));
    assert_eq!(area.registers(CPU_REGISTERS_MAX), None);

    put(&area, CPU_BEATS_OFFSET + 64, 5);
    put_u32(&area, CPU_BEATS_OFFSET as usize + 76, 1);
    let beat = Beat {
        beats: 5,
        apic_id: 0,
        online: true,
    };
    assert_eq!(area.beat(1), Some(beat));
    assert_eq!(area.beat(CPU_BEATS_MAX), None);
}

#[test]
fn a_message_without_end() {
    let memory = memory();
    let area = Area::new(&memory).unwrap();
    for i in 0..2 * MESSAGE_LENGTH {
        put(
            &area,
            (offset_of!(SharedHeader, end_message) + i) as u64,
            b'x',
        );
    }
    assert_eq!(area.message(), "x".repeat(MESSAGE_LENGTH));
}

#[test]
fn lapped_reader_says_what_it_lost() {
    let memory = memory();
    let area = Area::new(&memory).unwrap();
    start(&area);
    let mut reader = OutputReader::from_start(&area.header().unwrap());
    let text = vec![b'a'; CONSOLE_OUT_SIZE as usize];
    spawn_writes(&area, &text);
    spawn_writes(&area, &text);
    let mut bytes = Vec::new();
    let progress = reader.read(&area, &mut bytes);
    assert_eq!(progress.read, CONSOLE_OUT_SIZE - IN_FLIGHT);
    assert_eq!(progress.read + progress.lost, 2 * CONSOLE_OUT_SIZE);
    assert_eq!(reader.read(&area, &mut bytes), Progress::default());
}

#[test]
fn earlier_lives_are_there_for_those_who_ask() {
    let memory = memory();
    let area = Area::new(&memory).unwrap();
    start(&area);
    spawn_writes(&area, b"first");
    area.word(offset_of!(SharedHeader, console_start) as u64)
        .store(5, Ordering::Relaxed);
    spawn_writes(&area, b"second");
    let read = |mut reader: OutputReader| {
        let mut bytes = Vec::new();
        reader.read(&area, &mut bytes);
        String::from_utf8(bytes).unwrap()
    };
    assert_eq!(
        read(OutputReader::from_start(&area.header().unwrap())),
        "second"
    );
    assert_eq!(read(OutputReader::from_oldest(&area)), "firstsecond");
    assert_eq!(read(OutputReader::from_end(&area)), "");
}

#[test]
fn full_input_stops_the_writer() {
    let memory = memory();
    let area = Area::new(&memory).unwrap();
    let text = vec![b'x'; 5000];
    assert_eq!(write_input(&area, &text), Ok(4096));
    assert_eq!(write_input(&area, &text), Ok(0));
    assert_eq!(spawn_reads(&area, 10).len(), 10);
    assert_eq!(write_input(&area, &text), Ok(10));
    assert_eq!(input_pending(&area), 4096);
}

#[test]
fn lying_spawn_breaks_only_its_own_console() {
    let memory = memory();
    let area = Area::new(&memory).unwrap();
    start(&area);
    let ring = offset_of!(ConsoleRings, input);
    area.position(ring, 64).store(1, Ordering::Relaxed);
    assert_eq!(write_input(&area, b"a"), Err(SharedError::Positions));
    area.position(ring, 0).store(u64::MAX, Ordering::Relaxed);
    assert_eq!(write_input(&area, b"a"), Err(SharedError::Positions));
    area.position(ring, 64).store(u64::MAX, Ordering::Relaxed);
    assert_eq!(write_input(&area, b"a"), Err(SharedError::Positions));

    let mut reader = OutputReader::from_oldest(&area);
    let mut bytes = Vec::new();
    area.position(0, 0).store(u64::MAX, Ordering::Relaxed);
    let progress = reader.read(&area, &mut bytes);
    assert!(progress.read <= CONSOLE_OUT_SIZE);
    area.position(0, 0).store(7, Ordering::Relaxed);
    assert_eq!(reader.read(&area, &mut bytes), Progress::default());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Against a model that keeps everything that was ever written.
    #[test]
    fn output_is_what_was_written_less_what_is_counted_as_lost(
        steps in proptest::collection::vec((0usize..70_000, any::<bool>()), 1..24),
    ) {
        let memory = memory();
        let area = Area::new(&memory).unwrap();
        start(&area);
        let mut reader = OutputReader::from_start(&area.header().unwrap());
        let mut written = Vec::new();
        let mut position = 0usize;
        for (length, read) in steps {
            let chunk: Vec<u8> =
                (written.len()..written.len() + length).map(|i| (i * 7 % 251) as u8).collect();
            spawn_writes(&area, &chunk);
            written.extend_from_slice(&chunk);
            if read {
                let mut bytes = Vec::new();
                let progress = reader.read(&area, &mut bytes);
                position += progress.lost as usize;
                prop_assert_eq!(progress.read as usize, bytes.len());
                prop_assert!(bytes == written[position..position + bytes.len()]);
                position += bytes.len();
                prop_assert_eq!(position, written.len());
            }
        }
    }

    #[test]
    fn input_arrives_in_order(
        steps in proptest::collection::vec((0usize..6000, 0u64..6000), 1..24),
    ) {
        let memory = memory();
        let area = Area::new(&memory).unwrap();
        let mut sent = Vec::new();
        let mut received = Vec::new();
        for (length, taken) in steps {
            let chunk: Vec<u8> =
                (sent.len()..sent.len() + length).map(|i| (i * 7 % 251) as u8).collect();
            let count = write_input(&area, &chunk).unwrap();
            sent.extend_from_slice(&chunk[..count]);
            received.extend(spawn_reads(&area, taken));
            prop_assert!(received == sent[..received.len()]);
            prop_assert_eq!(input_pending(&area) as usize, sent.len() - received.len());
        }
    }
}
