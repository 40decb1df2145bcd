// SPDX-License-Identifier: GPL-2.0

//! Work that notices when anything of it is lost.
//!
//! A table of pages whose contents follow from a seed, the page and how often it has been gone
//! over. A step checks one page word by word, adds what it read to a sum and writes the page's next
//! contents. So a page that somebody else wrote to, a write that got lost and a step done twice are
//! all seen, and whoever knows the seed can say what the sum after so many steps has to be.

/// Words of a page.
const WORDS: usize = 512;

/// The contents of pages, word after word.
struct Contents(u64);

impl Contents {
    fn new(seed: u64, pass: u64, page: usize) -> Self {
        let mixed = seed ^ pass.rotate_left(40) ^ (page as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self(mixed ^ (mixed >> 31))
    }
}

impl Iterator for Contents {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        // A linear congruential generator (Knuth's MMIX constants): cheap, and every word differs.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        Some(self.0)
    }
}

/// Where the work is: enough to go on with it, or to know what it must have come to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Progress {
    /// Steps done.
    pub steps: u64,
    /// What was read in all of them.
    pub sum: u64,
}

impl Progress {
    fn add(&mut self, word: u64) {
        self.sum = (self.sum ^ word).wrapping_mul(0x0000_0100_0000_01b3);
    }
}

/// The sum that the work has to come to, calculated without the table.
#[derive(Clone, Debug)]
pub struct Reference {
    seed: u64,
    pages: usize,
    progress: Progress,
}

impl Reference {
    /// For a table of the same seed and size.
    pub fn new(seed: u64, pages: usize) -> Self {
        Self {
            seed,
            pages,
            progress: Progress { steps: 0, sum: 0 },
        }
    }

    /// What the work comes to after so many steps; these can only grow.
    pub fn after(&mut self, steps: u64) -> u64 {
        while self.progress.steps < steps {
            let pass = self.progress.steps / self.pages as u64;
            let page = (self.progress.steps % self.pages as u64) as usize;
            for word in Contents::new(self.seed, pass, page).take(WORDS) {
                self.progress.add(word);
            }
            self.progress.steps += 1;
        }
        self.progress.sum
    }

    /// Steps that it has been asked for.
    pub fn steps(&self) -> u64 {
        self.progress.steps
    }
}

/// The work itself.
pub struct Work {
    seed: u64,
    table: Vec<[u64; WORDS]>,
    progress: Progress,
}

impl Work {
    /// Fills a table of so many pages, at least one.
    pub fn new(seed: u64, pages: usize) -> Self {
        let mut table = vec![[0; WORDS]; pages.max(1)];
        for (number, page) in table.iter_mut().enumerate() {
            fill(page, seed, 0, number);
        }
        Self {
            seed,
            table,
            progress: Progress { steps: 0, sum: 0 },
        }
    }

    /// Does one step. An error says what was found.
    pub fn step(&mut self) -> Result<(), String> {
        let pages = self.table.len() as u64;
        let pass = self.progress.steps / pages;
        let number = (self.progress.steps % pages) as usize;
        let page = &mut self.table[number];
        let mut wrong = None;
        for (at, (word, expected)) in page
            .iter()
            .zip(Contents::new(self.seed, pass, number))
            .enumerate()
        {
            if *word != expected && wrong.is_none() {
                wrong = Some(format!(
                    "page {number} word {at} is {word:#018x}, not {expected:#018x}"
                ));
            }
            self.progress.add(*word);
        }
        fill(page, self.seed, pass + 1, number);
        self.progress.steps += 1;
        wrong.map_or(Ok(()), Err)
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// Changes one bit of the page whose turn is next: what has to be noticed.
    pub fn spoil(&mut self) {
        let number = (self.progress.steps % self.table.len() as u64) as usize;
        self.table[number][WORDS / 2] ^= 1;
    }
}

fn fill(page: &mut [u64; WORDS], seed: u64, pass: u64, number: usize) {
    for (word, content) in page.iter_mut().zip(Contents::new(seed, pass, number)) {
        *word = content;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_what_the_reference_says() {
        let mut work = Work::new(7, 3);
        let mut reference = Reference::new(7, 3);
        for steps in [1, 2, 5, 50] {
            while work.progress().steps < steps {
                work.step().unwrap();
            }
            assert_eq!(work.progress().sum, reference.after(steps));
        }
        assert_ne!(Reference::new(8, 3).after(50), work.progress().sum);
        assert_ne!(Reference::new(7, 4).after(50), work.progress().sum);
        assert_ne!(Reference::new(7, 3).after(49), work.progress().sum);
    }

    #[test]
    fn one_bit_is_noticed_once_and_spoils_the_sum() {
        let mut work = Work::new(1, 2);
        work.step().unwrap();
        work.spoil();
        assert!(work.step().unwrap_err().contains("page 1 word 256"));
        for _ in 0..10 {
            work.step().unwrap();
        }
        let steps = work.progress().steps;
        assert_ne!(work.progress().sum, Reference::new(1, 2).after(steps));
    }
}
