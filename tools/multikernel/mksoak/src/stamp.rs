// SPDX-License-Identifier: GPL-2.0

//! Stamps: memory that is written word after word, so that one look at it tells how far that was.
//!
//! Numbers count from 1 and go on when the memory begins anew. However whoever stamps is ended,
//! there has to be one place, the frontier, up to which every word is of the present pass, and from
//! which on each is as the pass before left it.

use std::sync::atomic::{AtomicU64, Ordering};

/// What was found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Frontier {
    /// Which pass was being written, from 0.
    pub pass: u64,
    /// The first word that it had not come to.
    pub word: usize,
    /// Words behind it that are not as the pass before left them.
    pub bad: u64,
}

/// Stamps for ever.
pub fn stamp(words: &[AtomicU64]) {
    let mut number: u64 = 0;
    while !words.is_empty() {
        for word in words {
            number = number.wrapping_add(1);
            // In order, as seen by whoever looks.
            word.store(number, Ordering::Release);
        }
    }
}

/// What is in stamped memory.
pub fn look(words: &[AtomicU64]) -> Frontier {
    let count = words.len() as u64;
    let load = |word: &AtomicU64| word.load(Ordering::Acquire);
    let first = words.first().map_or(0, load);
    if first == 0 {
        let bad = words.iter().filter(|word| load(word) != 0).count() as u64;
        let (pass, word) = (0, 0);
        return Frontier { pass, word, bad };
    }
    let pass = (first - 1) / count;
    let present = pass.wrapping_mul(count);
    let last = match pass {
        0 => None,
        pass => Some((pass - 1).wrapping_mul(count)),
    };
    let numbered = || words.iter().zip(1_u64..);
    let is = |start: u64, word: &AtomicU64, i: u64| load(word) == start.wrapping_add(i);
    let word = numbered()
        .take_while(|(word, i)| is(present, word, *i))
        .count();
    let bad = numbered()
        .skip(word)
        .filter(|(word, i)| match last {
            None => load(word) != 0,
            Some(last) => !is(last, word, *i),
        })
        .count() as u64;
    Frontier { pass, word, bad }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As it is after so many stores.
    fn stamped(length: usize, stores: u64) -> Vec<AtomicU64> {
        let words: Vec<AtomicU64> = (0..length).map(|_| AtomicU64::new(0)).collect();
        for number in 1..=stores {
            let at = (number - 1) % length as u64;
            words[at as usize].store(number, Ordering::Relaxed);
        }
        words
    }

    #[test]
    fn a_frontier_anywhere() {
        for stores in 0..50 {
            let found = look(&stamped(10, stores));
            let (pass, word) = match stores {
                0 => (0, 0),
                stores => ((stores - 1) / 10, (stores - 1) % 10 + 1),
            };
            let expected = Frontier {
                pass,
                word: word as usize,
                bad: 0,
            };
            assert_eq!(found, expected, "{stores}");
        }
        assert_eq!(look(&[]).bad, 0);
    }

    #[test]
    fn bad_words() {
        for stores in [0, 3, 15, 30] {
            for at in 0..10 {
                for value in [u64::MAX, 7777] {
                    let words = stamped(10, stores);
                    words[at].store(value, Ordering::Relaxed);
                    assert!(look(&words).bad > 0, "{stores} {at} {value}");
                }
            }
        }
        // A store that was lost, and one that came too early.
        let words = stamped(10, 38);
        words[4].store(25, Ordering::Relaxed);
        assert_eq!(look(&words).word, 4);
        assert_eq!(look(&words).bad, 3);
        let words = stamped(10, 34);
        words[8].store(39, Ordering::Relaxed);
        assert_eq!(look(&words).bad, 1);
    }
}
