// SPDX-License-Identifier: GPL-2.0

//! What is written: a record that says which write it is of, and in which no bit can change unseen.
//!
//! Its bytes follow from the seed, the writer, the place and the number of the write, so that they
//! can be held against what they must be; the checksum at its end tells a record that is of another
//! write from one that was never written.

/// Bytes before the filler: number, writer, place.
const HEAD: usize = 16;
/// Bytes of the checksum.
const TAIL: usize = 4;
/// The shortest record.
pub const SHORTEST: usize = HEAD + TAIL;

/// Where a record is: a key that is written over, or the list that grows.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Place {
    /// A key, by its number.
    Slot(u32),
    /// The end of the list.
    Log,
}

impl Place {
    fn code(self) -> u32 {
        match self {
            Self::Slot(slot) => slot,
            Self::Log => u32::MAX,
        }
    }
}

/// A writer, and what all its records have in common.
#[derive(Clone, Copy, Debug)]
pub struct Hand {
    /// What the run's records follow from.
    pub seed: u64,
    /// The writer.
    pub writer: u32,
    /// Bytes of each record.
    pub bytes: usize,
}

impl Hand {
    /// The record of the write with this number.
    pub fn write(&self, number: u64, place: Place) -> Vec<u8> {
        let mut record = Vec::with_capacity(self.bytes);
        record.extend(number.to_le_bytes());
        record.extend(self.writer.to_le_bytes());
        record.extend(place.code().to_le_bytes());
        let mix = self.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(self.writer);
        let mut filler = vec![0; self.bytes.saturating_sub(SHORTEST)];
        fastrand::Rng::with_seed(mix).fill(&mut filler);
        record.extend(filler);
        let sum = crc32fast::hash(&record);
        record.extend(sum.to_le_bytes());
        record
    }

    /// The number of the write that a record is of; `None` if it is none of this writer's records
    /// for this place.
    pub fn read(&self, record: &[u8], place: Place) -> Option<u64> {
        let (body, sum) = record.split_last_chunk::<TAIL>()?;
        if crc32fast::hash(body) != u32::from_le_bytes(*sum) {
            return None;
        }
        let number = u64::from_le_bytes(*body.first_chunk()?);
        (record == self.write(number, place)).then_some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HAND: Hand = Hand {
        seed: 7,
        writer: 2,
        bytes: 60,
    };

    #[test]
    fn what_was_written_is_read() {
        for bytes in [0, SHORTEST, 21, 1000] {
            let hand = Hand { bytes, ..HAND };
            let record = hand.write(5, Place::Slot(3));
            assert_eq!(record.len(), bytes.max(SHORTEST));
            assert_eq!(hand.read(&record, Place::Slot(3)), Some(5));
        }
    }

    #[test]
    fn every_bit_counts() {
        let record = HAND.write(5, Place::Log);
        for bit in 0..record.len() * 8 {
            let mut changed = record.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(HAND.read(&changed, Place::Log), None, "bit {bit}");
        }
        assert_eq!(HAND.read(&record[1..], Place::Log), None);
        assert_eq!(HAND.read(&[], Place::Log), None);
    }

    #[test]
    fn a_record_of_another_place_writer_or_run_is_none() {
        let record = HAND.write(5, Place::Slot(3));
        assert_eq!(HAND.read(&record, Place::Slot(4)), None);
        assert_eq!(HAND.read(&record, Place::Log), None);
        let other = Hand { writer: 3, ..HAND };
        assert_eq!(other.read(&record, Place::Slot(3)), None);
        let later = Hand { seed: 8, ..HAND };
        assert_eq!(later.read(&record, Place::Slot(3)), None);
    }
}
