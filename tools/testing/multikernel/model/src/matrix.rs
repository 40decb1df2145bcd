// SPDX-License-Identifier: GPL-2.0

//! The crash matrix: what may come of a hand-over in the middle of which somebody ends.
//!
//! [`lines`] walks the model of a hand-over in which nothing fails, one step at a time: every state
//! that can be reached by one offer, and in each every step that changes something. A step has
//! three moments beside those before and after it: the host has not made it ([`Moment::Asked`]),
//! the host has made it and the answer is on its way ([`Moment::Made`]), and for a change of the
//! entries the one at which nothing is in force yet ([`Moment::Changing`]). At each of these one
//! of the two ends, its kernel or the process that has the session open, and the model says what
//! can be there once all that was under way has arrived. Of lines in which a kernel ends in the
//! middle of the same step, and after which the model is in the same state, the first is there.
//!
//! A line has the pair, the path, where `!` means that the host refuses it, the moment, who ends,
//! and what may be there then: owner, state of the offer, and how often the entries have changed.
//! `handover_matrix.txt` beside the selftests is these lines; `handover_matrix.sh` plays them on
//! real kernels.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::fmt;

use multikernel_pure::handover::ownership::Party;
use stateright::Model;

use crate::{Action, HandOver, Pending, Role, Side, State, Step};

/// What plays the two sides.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Pair {
    /// The host gives to a spawn.
    HostSpawn,
    /// A spawn gives to the host.
    SpawnHost,
    /// A spawn gives to another.
    SpawnSpawn,
}

impl Pair {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::HostSpawn, Self::SpawnHost, Self::SpawnSpawn];

    fn name(self) -> &'static str {
        match self {
            Self::HostSpawn => "host-spawn",
            Self::SpawnHost => "spawn-host",
            Self::SpawnSpawn => "spawn-spawn",
        }
    }

    /// Whether a side is the host: its kernel does not end, and makes its steps at once.
    fn is_host(self, side: Side) -> bool {
        matches!(
            (self, side),
            (Self::HostSpawn, Side::Giver) | (Self::SpawnHost, Side::Taker)
        )
    }
}

/// What a side does; a step of the protocol, or a change of the entries.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Deed {
    /// A step, of which the ticket does not matter: there is one offer.
    Step(Step),
    /// [`Action::Change`].
    Change,
}

impl Deed {
    fn name(self) -> &'static str {
        match self {
            Self::Change => "put",
            Self::Step(Step::Open) => "open",
            Self::Step(Step::Offer) => "offer",
            Self::Step(Step::Accept) => "accept",
            Self::Step(Step::Commit(_)) => "commit",
            Self::Step(Step::Abort(_)) => "abort",
            Self::Step(Step::Look(_)) => "wait",
        }
    }
}

/// One deed of a path.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Done {
    /// Who does it.
    pub by: Side,
    /// What.
    pub deed: Deed,
    /// Whether the host refuses it, by which who has asked learns how it stands.
    pub refused: bool,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let refused = if self.refused { "!" } else { "" };
        write!(f, "{}.{}{refused}", side(self.by), self.deed.name())
    }
}

/// Where in the last step of a line somebody ends.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Moment {
    /// It has been taken, and the asker knows; where there is no step, nothing has been done yet.
    /// This is also the moment before each step that can follow.
    Done,
    /// It is asked for, and the host has not made it.
    Asked,
    /// The host has made it, or refused to, and the asker does not know.
    Made,
    /// Contents are written, and not in force.
    Changing,
}

/// What ends.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum End {
    /// The kernel.
    Kernel,
    /// The process that has the session open.
    Process,
}

/// What may be there afterwards, before anybody does anything about it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Outcome {
    /// Whose the session is.
    pub owner: Side,
    /// How it stands: `owned`, `offered` or `accepted`.
    pub state: &'static str,
    /// How often the entries have been changed.
    pub version: u64,
}

/// A line of the matrix.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Line {
    /// What plays the sides.
    pub pair: Pair,
    /// What was done up to there; the last one is the step that the moment is in.
    pub path: Vec<Done>,
    /// Where in it.
    pub moment: Moment,
    /// Who ends.
    pub side: Side,
    /// What of it.
    pub end: End,
    /// What may come of it.
    pub outcomes: BTreeSet<Outcome>,
}

fn side(side: Side) -> &'static str {
    match side {
        Side::Giver => "giver",
        Side::Taker => "taker",
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path: Vec<_> = self.path.iter().map(Done::to_string).collect();
        let path = if path.is_empty() {
            "-".to_owned()
        } else {
            path.join(",")
        };
        let moment = match self.moment {
            Moment::Done => "done",
            Moment::Asked => "asked",
            Moment::Made => "made",
            Moment::Changing => "changing",
        };
        let end = match self.end {
            End::Kernel => "kernel",
            End::Process => "process",
        };
        let outcomes: Vec<_> = self
            .outcomes
            .iter()
            .map(|it| format!("{}/{}/{}", side(it.owner), it.state, it.version))
            .collect();
        write!(
            f,
            "{} {path} {moment} {}.{end} {}",
            self.pair.name(),
            side(self.side),
            outcomes.join(",")
        )
    }
}

/// The bounds: one offer, one change, one end.
const MODEL: HandOver = HandOver {
    offers: 1,
    changes: 1,
    ends: 1,
    defect: None,
};

/// A moment of the walk, and how it is come to.
struct At {
    path: Vec<Done>,
    moment: Moment,
    /// What is the case.
    state: State,
    /// What is if the asker goes on; the model has no moment in the middle of a change.
    changed: Option<State>,
}

impl At {
    /// What may be the case when one of the two ends. A change is in force by one last store: that
    /// has not been made if the kernel ends before it, a process that is killed may still make it,
    /// and whoever else ends does not matter.
    fn cases(&self, side: Side, end: End) -> Vec<&State> {
        let changes = self.path.last().map(|last| last.by);
        match &self.changed {
            None => vec![&self.state],
            Some(changed) if changes != Some(side) => vec![changed],
            Some(_) if end == End::Kernel => vec![&self.state],
            Some(changed) => vec![&self.state, changed],
        }
    }

    /// What is in its middle: who has done what last, unless that is over.
    fn under_way(&self) -> Option<(Done, Moment)> {
        let last = *self.path.last()?;
        (self.moment != Moment::Done).then_some((last, self.moment))
    }
}

fn next(state: &State, action: Action) -> Option<State> {
    let mut possible = Vec::new();
    MODEL.actions(state, &mut possible);
    let next = possible
        .contains(&action)
        .then(|| MODEL.next_state(state, action))??;
    MODEL.within_boundary(&next).then_some(next)
}

/// What the two kernels and the host have come to, but for the count of offers.
fn standing(state: &State) -> (Party<Side>, Option<bool>, [Role; 2], u64) {
    (
        state.ownership.owner(),
        state.ownership.offer_made().map(|offer| offer.accepted),
        [state.kernels[0].role, state.kernels[1].role],
        state.version,
    )
}

/// Every moment of a hand-over in which nothing fails, one step at a time.
fn moments() -> Vec<At> {
    let mut moments = Vec::new();
    let mut seen = HashSet::new();
    let mut changed_by = HashSet::new();
    let mut queue = VecDeque::new();
    for state in MODEL.init_states() {
        seen.insert(state.clone());
        queue.push_back((Vec::new(), state));
    }
    while let Some((path, state)) = queue.pop_front() {
        for side in Side::ALL {
            let changed = next(&state, Action::Change(side));
            // Where each may do so first: what the other believes does not matter.
            if let Some(changed) = changed.filter(|_| changed_by.insert(side)) {
                let mut path = path.clone();
                path.push(Done {
                    by: side,
                    deed: Deed::Change,
                    refused: false,
                });
                moments.push(At {
                    path: path.clone(),
                    moment: Moment::Changing,
                    state: state.clone(),
                    changed: Some(changed.clone()),
                });
                // It is handed over like what is not changed.
                moments.push(At {
                    path,
                    moment: Moment::Done,
                    state: changed,
                    changed: None,
                });
            }
            for step in MODEL.steps(&state, side) {
                let Some(asked) = next(&state, Action::Ask(side, step)) else {
                    continue;
                };
                let Some(made) = next(&asked, Action::Decide(side)) else {
                    continue;
                };
                let Some(heard) = next(&made, Action::Hear(side)) else {
                    continue;
                };
                // A step that was taken already, or that is refused, is none.
                if standing(&heard) == standing(&state) {
                    continue;
                }
                let mut path = path.clone();
                path.push(Done {
                    by: side,
                    deed: Deed::Step(step),
                    refused: matches!(made.kernel(side).pending, Some(Pending::Answered(_, None))),
                });
                for (moment, state) in [(Moment::Asked, asked), (Moment::Made, made)] {
                    moments.push(At {
                        path: path.clone(),
                        moment,
                        state,
                        changed: None,
                    });
                }
                // One call makes two steps here, and comes to what is visited by another way.
                let half = heard.kernel(side).role == Role::Offering(0);
                if !half && seen.insert(heard.clone()) {
                    queue.push_back((path, heard));
                }
            }
        }
        moments.push(At {
            path,
            moment: Moment::Done,
            state,
            changed: None,
        });
    }
    moments
}

/// What is the case right after one of the two has ended.
fn ended(pair: Pair, side: Side, end: End, state: &State) -> Vec<State> {
    let hear = |it: &State| next(it, Action::Hear(side));
    // The bound on what may be on its way is for the whole of the model, not for this.
    let give_up = |it: &State| MODEL.next_state(it, Action::GiveUp(side));
    let close = |it: State| match it.kernel(side).role {
        Role::Closed => Some(it),
        _ => MODEL.next_state(&it, Action::Close(side)),
    };
    let ends = match (end, state.kernel(side).pending) {
        (End::Kernel, _) => return next(state, Action::End(side)).into_iter().collect(),
        (End::Process, None) => vec![Some(state.clone())],
        // The host's own call does not end in its middle.
        (End::Process, Some(Pending::Asked(_))) if pair.is_host(side) => {
            let made = next(state, Action::Decide(side));
            vec![made.as_ref().and_then(hear)]
        }
        (End::Process, Some(Pending::Asked(_))) => vec![give_up(state)],
        (End::Process, Some(Pending::Answered(..))) if pair.is_host(side) => vec![hear(state)],
        // It may hear it just before.
        (End::Process, Some(Pending::Answered(..))) => vec![hear(state), give_up(state)],
    };
    ends.into_iter().flatten().filter_map(close).collect()
}

/// All that can be the case when nothing is under way any more.
fn settled(states: Vec<State>) -> BTreeSet<Outcome> {
    let mut outcomes = BTreeSet::new();
    let mut seen: HashSet<State> = states.iter().cloned().collect();
    let mut queue: VecDeque<State> = states.into();
    while let Some(state) = queue.pop_front() {
        let mut under_way = false;
        for side in Side::ALL {
            let loose = (0..state.kernel(side).loose.len()).map(|at| Action::Late(side, at));
            let actions = [Action::Decide(side), Action::Hear(side)];
            for action in loose.chain(actions) {
                if let Some(next) = next(&state, action) {
                    under_way = true;
                    if seen.insert(next.clone()) {
                        queue.push_back(next);
                    }
                }
            }
        }
        if under_way {
            continue;
        }
        let owner = match state.ownership.owner() {
            Party::Instance(side) => side,
            Party::Host => unreachable!("the model's sides are instances"),
        };
        outcomes.insert(Outcome {
            owner,
            state: match state.ownership.offer_made() {
                None => "owned",
                Some(offer) if offer.accepted => "accepted",
                Some(_) => "offered",
            },
            version: state.version,
        });
    }
    outcomes
}

/// All lines, in the order of the walk.
pub fn lines() -> Vec<Line> {
    let moments = moments();
    let mut lines = Vec::new();
    let mut seen = HashSet::new();
    for pair in Pair::ALL {
        for at in &moments {
            for side in Side::ALL {
                for end in [End::Process, End::Kernel] {
                    if end == End::Kernel && pair.is_host(side) {
                        continue;
                    }
                    let after = at.cases(side, end).into_iter();
                    let after: Vec<_> = after.flat_map(|it| ended(pair, side, end, it)).collect();
                    if end == End::Kernel
                        && !seen.insert((pair, side, at.under_way(), after.clone()))
                    {
                        continue;
                    }
                    lines.push(Line {
                        pair,
                        path: at.path.clone(),
                        moment: at.moment,
                        side,
                        end,
                        outcomes: settled(after),
                    });
                }
            }
        }
    }
    lines
}

/// The file.
pub fn text() -> String {
    // In two parts, as it is not the licence of this file.
    let mut text = String::from(concat!("# SPDX", "-License-Identifier: GPL-2.0\n"));
    text.push_str(
        "#\n\
         # Made by: cargo run -p multikernel-model --bin matrix\n\
         # What each line says: src/matrix.rs of the package multikernel-model\n",
    );
    for line in lines() {
        text.push_str(&format!("{line}\n"));
    }
    text
}
