// SPDX-License-Identifier: GPL-2.0

//! A hand-over, as a model whose every state can be visited.
//!
//! The host is [`Ownership`] itself, the file that the kernel is built from. The two kernels are
//! what `handover/session.rs` makes of its answers, in the same words: a [`Role`] each, and a step
//! that is asked for and not yet answered. A request whose sender has given up may be made late,
//! but not after a later one of the same kernel, as these have sequence numbers; an answer may be
//! lost. Either kernel ends at any moment, and comes back; the owner changes the entries whenever
//! it may.
//!
//! What must hold in every state is in [`HandOver::properties`]. What may come of a hand-over in
//! which somebody ends is listed by [`matrix`].

pub mod matrix;

use multikernel_pure::handover::ownership::{Outcome, Ownership, Party};
use stateright::{Model, Property};

/// One of the two kernels.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Side {
    /// Who owns the session first.
    Giver,
    /// To whom it is offered first.
    Taker,
}

impl Side {
    /// Both of them.
    pub const ALL: [Side; 2] = [Side::Giver, Side::Taker];

    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::Giver => Self::Taker,
            Self::Taker => Self::Giver,
        }
    }
}

/// What a kernel believes to be to the session: `Role` of `session.rs`, and that it is not open.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Role {
    /// It has not opened it in this life.
    Closed,
    /// Its owner, who may change it.
    Owner,
    /// Its owner, who has offered it, or has tried to: ticket 0.
    Offering(u64),
    /// Who has accepted it, and has seen this version of the entries.
    Adopter(u64, u64),
    /// None: it has gone to another.
    Former,
}

/// What a kernel asks of the host.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Step {
    /// `SESSION_OPEN`.
    Open,
    /// `SESSION_OFFER`.
    Offer,
    /// `SESSION_ACCEPT`.
    Accept,
    /// `SESSION_COMMIT`.
    Commit(u64),
    /// `SESSION_ABORT`.
    Abort(u64),
    /// `SESSION_LOOK`.
    Look(u64),
}

/// How far a step has come.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Pending {
    /// The host has not seen it.
    Asked(Step),
    /// The host has made it, or refused to; so it says. `None`: refused.
    Answered(Step, Option<Answer>),
}

/// What the host says.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Answer {
    /// The offer that stands, 0 if none does.
    Ticket(u64),
    /// What has become of an offer: pending, committed or aborted.
    Pending,
    /// It is the other's.
    Committed,
    /// The owner has kept it.
    Aborted,
}

/// A kernel.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Kernel {
    /// Whether it runs.
    pub runs: bool,
    /// What it believes.
    pub role: Role,
    /// The step that it waits for.
    pub pending: Option<Pending>,
    /// Those that it has given up, and that the host may yet make, in the order of their asking.
    pub loose: Vec<Step>,
}

/// All there is.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct State {
    /// The host's word.
    pub ownership: Ownership<Side>,
    /// Giver and taker.
    pub kernels: [Kernel; 2],
    /// The entries in the arena: how often they have been changed.
    pub version: u64,
    /// Of the last offer: the version that was offered.
    pub offered: u64,
    /// A kernel that was not the owner, or had offered the session, has changed it.
    pub spoilt: bool,
    /// A commit was made of entries that were not those the adopter had seen.
    pub torn: bool,
    /// A kernel that had offered it has taken it for gone, and owns it.
    pub lost: bool,
    /// How many kernels have ended.
    pub ends: u8,
}

impl State {
    /// A kernel.
    pub fn kernel(&self, side: Side) -> &Kernel {
        &self.kernels[side as usize]
    }
}

/// What may happen next.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Action {
    /// A kernel asks for a step.
    Ask(Side, Step),
    /// The host makes it.
    Decide(Side),
    /// The host makes one that was given up; those before it are void from now on.
    Late(Side, usize),
    /// The kernel hears the answer.
    Hear(Side),
    /// It does not: the call is interrupted, or times out. Whether the host has made the step, or
    /// will, it does not know.
    GiveUp(Side),
    /// The host commits for who has accepted: an upgrade.
    CommitFor(Side),
    /// The owner changes the entries.
    Change(Side),
    /// A kernel ends, whichever way, and the host sees it.
    End(Side),
    /// Its next life begins.
    Begin(Side),
    /// The process that has the session open in a kernel is killed.
    Close(Side),
}

/// How many steps that were given up may be on their way, of a kernel.
const LOOSE_MAX: usize = 1;

/// The bounds of the model.
#[derive(Clone, Copy, Debug)]
pub struct HandOver {
    /// How many offers there are at most.
    pub offers: u64,
    /// How often the entries are changed at most.
    pub changes: u64,
    /// How many kernels end at most.
    pub ends: u8,
    /// A defect that is built in, to see that it is found.
    pub defect: Option<Defect>,
}

/// What could have been done wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Defect {
    /// A step that was given up counts as not made.
    ForgetDoubt,
    /// Who has offered a session goes on changing it.
    ChangeOffered,
    /// The host also makes what an earlier life of a kernel has asked for.
    LivesMix,
    /// The host also makes requests that come after a later one.
    NoSequence,
    /// Who hears that a commit came too late takes the session nevertheless.
    CommitAnyway,
}

impl HandOver {
    /// What a kernel may ask for, by what it believes, as `session.rs` lets it.
    fn steps(&self, state: &State, side: Side) -> Vec<Step> {
        match state.kernel(side).role {
            Role::Closed => vec![Step::Open, Step::Accept],
            Role::Owner if state.ownership.offers() < self.offers => vec![Step::Offer],
            Role::Owner | Role::Former => vec![],
            Role::Offering(0) => vec![Step::Offer, Step::Abort(0), Step::Open],
            Role::Offering(ticket) => vec![Step::Offer, Step::Abort(ticket), Step::Look(ticket)],
            Role::Adopter(ticket, _) => {
                vec![
                    Step::Commit(ticket),
                    Step::Abort(ticket),
                    Step::Look(ticket),
                ]
            }
        }
    }

    /// The host makes a step: `decide_in()` of `arbiter.rs`.
    fn decide(state: &mut State, side: Side, step: Step) -> Option<Answer> {
        let by = Party::Instance(side);
        let host = &mut state.ownership;
        match step {
            Step::Open => {
                let offer = host.offer_made().map_or(0, |offer| offer.ticket);
                (host.owner() == by).then_some(Answer::Ticket(offer))
            }
            Step::Offer => {
                let was = host.offer_made().is_some();
                let ticket = host.offer(by, Party::Instance(side.other())).ok()?;
                if !was {
                    state.offered = state.version;
                }
                Some(Answer::Ticket(ticket))
            }
            Step::Accept => host.accept(by).ok().map(Answer::Ticket),
            Step::Commit(ticket) => {
                let before = host.owner();
                host.commit(by, ticket).ok()?;
                if before != host.owner() && state.version != state.offered {
                    state.torn = true;
                }
                Some(Answer::Committed)
            }
            Step::Abort(ticket) => host.abort(by, ticket).ok().map(|()| Answer::Aborted),
            Step::Look(ticket) => match host.outcome(by, ticket) {
                Ok(Outcome::Committed) => Some(Answer::Committed),
                Err(_) => None,
                Ok(Outcome::Aborted) => Some(Answer::Aborted),
                Ok(Outcome::Offered | Outcome::Accepted) => Some(Answer::Pending),
            },
        }
    }

    /// The role that follows from an answer: the rest of each function of `Session`.
    fn hear(&self, state: &mut State, side: Side, step: Step, answer: Option<Answer>) {
        let version = state.version;
        let role = &mut state.kernels[side as usize].role;
        *role = match (step, answer, *role) {
            (Step::Open, Some(Answer::Ticket(0)), _) => Role::Owner,
            (Step::Open, Some(Answer::Ticket(ticket)), _) => Role::Offering(ticket),
            (Step::Open, None, Role::Offering(_)) => Role::Former,
            (Step::Offer, Some(Answer::Ticket(ticket)), _) => Role::Offering(ticket),
            // It is another's: an offer that was in doubt had been made.
            (Step::Offer, None, _) => Role::Former,
            (Step::Accept, Some(Answer::Ticket(ticket)), _) => Role::Adopter(ticket, version),
            (Step::Commit(_), Some(_), _) => Role::Owner,
            (Step::Commit(_), None, _) if self.defect == Some(Defect::CommitAnyway) => Role::Owner,
            (Step::Commit(_), None, _) => Role::Former,
            (Step::Abort(_), Some(_), Role::Offering(_)) => Role::Owner,
            // It is opened to see what stands.
            (Step::Abort(_), None, Role::Offering(_)) => Role::Offering(0),
            (Step::Abort(_), _, _) => Role::Former,
            (Step::Look(_), Some(Answer::Pending), role) => role,
            (Step::Look(_), Some(Answer::Committed), Role::Adopter(..)) => Role::Owner,
            (Step::Look(_), _, Role::Adopter(..)) => Role::Former,
            (Step::Look(_), Some(Answer::Aborted), _) => Role::Owner,
            (Step::Look(_), Some(_), _) => Role::Former,
            (Step::Look(_), None, _) => Role::Offering(0),
            (_, _, role) => role,
        };
    }
}

impl Model for HandOver {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let kernel = |role| Kernel {
            runs: true,
            role,
            pending: None,
            loose: Vec::new(),
        };
        vec![State {
            ownership: Ownership::new(Party::Instance(Side::Giver)),
            kernels: [kernel(Role::Owner), kernel(Role::Closed)],
            version: 0,
            offered: 0,
            spoilt: false,
            torn: false,
            lost: false,
            ends: 0,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for side in Side::ALL {
            let kernel = state.kernel(side);
            if !kernel.runs {
                actions.push(Action::Begin(side));
                continue;
            }
            if state.ends < self.ends {
                actions.push(Action::End(side));
            }
            let offer = state.ownership.offer_made();
            if offer.is_some_and(|it| it.to == Party::Instance(side) && it.accepted) {
                actions.push(Action::CommitFor(side));
            }
            actions.extend((0..kernel.loose.len()).map(|at| Action::Late(side, at)));
            let room = kernel.loose.len() < LOOSE_MAX;
            match kernel.pending {
                Some(Pending::Asked(_)) => {
                    actions.push(Action::Decide(side));
                    if room {
                        actions.push(Action::GiveUp(side));
                    }
                }
                Some(Pending::Answered(..)) => {
                    actions.push(Action::Hear(side));
                    actions.push(Action::GiveUp(side));
                }
                None => {
                    let steps = self.steps(state, side).into_iter();
                    actions.extend(steps.map(|step| Action::Ask(side, step)));
                    if kernel.role != Role::Closed && room {
                        actions.push(Action::Close(side));
                    }
                    let may_change = kernel.role == Role::Owner
                        || self.defect == Some(Defect::ChangeOffered)
                            && matches!(kernel.role, Role::Offering(_));
                    if may_change && state.version < self.changes {
                        actions.push(Action::Change(side));
                    }
                }
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Ask(side, step) => {
                let kernel = &mut state.kernels[side as usize];
                // From the moment that it asks on it does not change what it offers.
                if step == Step::Offer && kernel.role == Role::Owner {
                    kernel.role = Role::Offering(0);
                }
                kernel.pending = Some(Pending::Asked(step));
            }
            Action::Decide(side) => {
                let Some(Pending::Asked(step)) = state.kernel(side).pending else {
                    return None;
                };
                let answer = Self::decide(&mut state, side, step);
                let kernel = &mut state.kernels[side as usize];
                kernel.pending = Some(Pending::Answered(step, answer));
                let kept = match self.defect {
                    Some(Defect::NoSequence) => true,
                    // Each life counts its requests anew.
                    Some(Defect::LivesMix) => state.ends != 0,
                    _ => false,
                };
                if !kept {
                    kernel.loose.clear();
                }
            }
            Action::Late(side, at) => {
                let step = *state.kernel(side).loose.get(at)?;
                // Nobody waits for the answer.
                let _ = Self::decide(&mut state, side, step);
                state.kernels[side as usize].loose.drain(..=at);
            }
            Action::Hear(side) => {
                let Some(Pending::Answered(step, answer)) =
                    state.kernels[side as usize].pending.take()
                else {
                    return None;
                };
                let offered = matches!(state.kernel(side).role, Role::Offering(_));
                self.hear(&mut state, side, step, answer);
                let gone = offered && state.kernel(side).role == Role::Former;
                state.lost |= gone && state.ownership.owner() == Party::Instance(side);
            }
            Action::GiveUp(side) => {
                let kernel = &mut state.kernels[side as usize];
                if let Some(Pending::Asked(step)) = kernel.pending {
                    kernel.loose.push(step);
                }
                if let Some(Pending::Asked(Step::Offer) | Pending::Answered(Step::Offer, _)) =
                    kernel.pending
                {
                    kernel.role = Role::Offering(0);
                }
                // It may have been accepted, and nobody will look at it.
                if let Some(Pending::Asked(Step::Accept) | Pending::Answered(Step::Accept, _)) =
                    kernel.pending
                {
                    kernel.loose.push(Step::Abort(0));
                }
                if self.defect == Some(Defect::ForgetDoubt) && kernel.role == Role::Offering(0) {
                    kernel.role = Role::Owner;
                }
                kernel.pending = None;
            }
            Action::CommitFor(side) => {
                let ticket = state.ownership.offers();
                Self::decide(&mut state, side, Step::Commit(ticket))?;
            }
            Action::Change(side) => {
                let owner = state.ownership.owner() == Party::Instance(side);
                state.spoilt |= !owner || state.ownership.offer_made().is_some();
                state.version += 1;
            }
            Action::End(side) => {
                let mut loose = core::mem::take(&mut state.kernels[side as usize].loose);
                if self.defect != Some(Defect::LivesMix) {
                    loose.clear();
                }
                state.kernels[side as usize] = Kernel {
                    runs: false,
                    role: Role::Closed,
                    pending: None,
                    loose,
                };
                state.ownership.ended(Party::Instance(side));
                state.ends += 1;
            }
            Action::Begin(side) => state.kernels[side as usize].runs = true,
            Action::Close(side) => {
                let kernel = &mut state.kernels[side as usize];
                // An abort that is sent and not waited for.
                if let Role::Adopter(ticket, _) = kernel.role {
                    kernel.loose.push(Step::Abort(ticket));
                }
                kernel.role = Role::Closed;
            }
        }
        Some(state)
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.ownership.offers() <= self.offers
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "one kernel at most may change the session",
                |_, state: &State| {
                    let owners = state.kernels.iter().filter(|it| it.role == Role::Owner);
                    owners.count() <= 1
                },
            ),
            Property::always("who may change it is its owner", |_, state: &State| {
                Side::ALL.iter().all(|&side| {
                    state.kernel(side).role != Role::Owner
                        || state.ownership.owner() == Party::Instance(side)
                })
            }),
            Property::always("it has an owner", |_, state: &State| {
                state.ownership.owner() != Party::Host
            }),
            Property::always(
                "nobody else changes it, nor the owner what is offered",
                |_, state: &State| !state.spoilt,
            ),
            Property::always(
                "what is taken over is what was offered",
                |_, state: &State| !state.torn,
            ),
            Property::always(
                "who has accepted sees what was offered",
                |_, state: &State| {
                    Side::ALL.iter().all(|&side| match state.kernel(side).role {
                        Role::Adopter(ticket, version) => {
                            let stands = state.ownership.offer_made();
                            stands.is_none_or(|offer| offer.ticket != ticket)
                                || version == state.offered
                        }
                        _ => true,
                    })
                },
            ),
            Property::always("nobody gives up what is its own", |_, state: &State| {
                !state.lost
            }),
            Property::sometimes("it is taken over", |_, state: &State| {
                state.kernel(Side::Taker).role == Role::Owner
            }),
            Property::sometimes("and handed back", |_, state: &State| {
                state.kernel(Side::Giver).role == Role::Owner
                    && state.ownership.offers() >= 2
                    && state.ownership.giver() == Some(Party::Instance(Side::Taker))
            }),
        ]
    }
}
