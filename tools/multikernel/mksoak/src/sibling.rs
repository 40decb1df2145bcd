// SPDX-License-Identifier: GPL-2.0

//! The spawn that works all along, while others crash beside it.

use std::time::Duration;

use multikernel::device::{Host, Reason, State};
use multikernel::{Error, Result};

use crate::life::{Files, Life};
use crate::plan::{Kernel, Plan, Shape, MIB};
use crate::spawn;
use crate::work::Reference;

/// How long it may take to work, and to answer: it shares the machine with what crashes.
const BOOT: Duration = Duration::from_secs(90);
const ANSWER: Duration = Duration::from_secs(20);
/// When it counts as hung, in milliseconds; the default of the user ABI.
const HANG_MS: u32 = 10_000;

/// The sibling, which must notice nothing.
pub struct Sibling<'a> {
    life: Life<'a>,
    reference: Reference,
}

impl<'a> Sibling<'a> {
    /// Starts it on this CPU, and waits until it works.
    pub fn start(host: &'a Host, files: &'a Files, cpu: u32, plan: &Plan) -> Result<Self> {
        let shape = Shape {
            kernel: Kernel::Vmlinux,
            memory: 96 * MIB + plan.more_memory,
            cpus: vec![cpu],
        };
        let seed = plan.seed;
        let mut life = Life::create(host, files, "sibling", &shape)?;
        life.start(&format!("{}{seed}", spawn::SEED), HANG_MS)?;
        life.wait_line("soak: ready", BOOT)?;
        Ok(Self {
            life,
            reference: Reference::new(seed, spawn::PAGES),
        })
    }

    /// Asks it how far it is; says what is wrong.
    pub fn check(&mut self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        if self.life.state()? != (State::Running, Reason::None) {
            let (state, reason) = self.life.state()?;
            return Err(Error::new(
                "cannot go on",
                format!("the sibling is {state}/{reason}"),
            ));
        }
        self.life.tell("report")?;
        let answer = self.life.wait_line("soak: report ", ANSWER)?;
        let parsed = answer.split_once(" 0x").and_then(|(steps, sum)| {
            Some((
                steps.parse::<u64>().ok()?,
                u64::from_str_radix(sum, 16).ok()?,
            ))
        });
        match parsed {
            None => found.push(format!("the sibling says \"{answer}\"")),
            Some((steps, _)) if steps <= self.reference.steps() => {
                found.push("the sibling stands still".into());
            }
            Some((steps, sum)) if sum != self.reference.after(steps) => {
                found.push("the sibling has lost work".into());
            }
            Some(_) => {}
        }
        found.extend(
            self.life
                .complaint()?
                .map(|said| format!("the sibling says \"{said}\"")),
        );
        Ok(found)
    }

    /// Changes one bit of what it works on.
    pub fn spoil(&self) -> Result<()> {
        self.life.tell("spoil")
    }

    /// Steps that it was found to have done.
    pub fn steps(&self) -> u64 {
        self.reference.steps()
    }

    /// Ends it.
    pub fn destroy(self) -> Result<()> {
        self.life.destroy()
    }
}
