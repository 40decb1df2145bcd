// SPDX-License-Identifier: GPL-2.0

//! Whose a session is.
//!
//! The host is the only one that decides this, one step at a time, for all kernels: a session has
//! one owner, always, and goes to another in a single step, [`Ownership::commit`]. Before that step
//! whatever dies leaves it with the old owner, after it with the new one. Every step may come
//! twice, as who sent it may not have heard the answer; the second time it says the same and does
//! nothing.
//!
//! ```text
//!             offer              accept               commit
//! (owned) ------------> offered ---------> accepted ----------> (owned by the other)
//!    ^                     |                   |
//!    +------ abort --------+------ abort ------+   also when a kernel that has accepted ends
//! ```
//!
//! The file is pure: the model in `tools/testing/multikernel/model` drives this very code. `H`
//! tells instances apart. In the kernel the registry's mutex guards it.

// `pub`, not `pub(crate)`: in the test workspace the file is a library's.
#![allow(unreachable_pub)]

use kernel::prelude::*;

/// One who can own a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Party<H> {
    /// The host's kernel.
    Host,
    /// An instance, in all of its lives.
    Instance(H),
}

/// What has become of an offer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Outcome {
    /// It has not been accepted.
    Offered,
    /// It has been accepted, and neither committed nor aborted.
    Accepted,
    /// The session is the other's.
    Committed,
    /// The session has stayed with who offered it.
    Aborted,
}

/// An offer that stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Offer<H> {
    /// Its number: no two offers of a session have the same.
    pub ticket: u64,
    /// To whom it is made.
    pub to: Party<H>,
    /// Whether that one has accepted.
    pub accepted: bool,
}

/// Who owns a session, and to whom it is offered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Ownership<H> {
    owner: Party<H>,
    offer: Option<Offer<H>>,
    /// How many offers there have been: the last one's ticket.
    offers: u64,
    /// Who made the last offer.
    giver: Party<H>,
    /// Whether the last offer was committed.
    committed: bool,
}

impl<H: Copy + Eq> Ownership<H> {
    /// Of a new session.
    pub const fn new(owner: Party<H>) -> Self {
        Self {
            owner,
            offer: None,
            offers: 0,
            giver: owner,
            committed: false,
        }
    }

    /// Whose it is.
    pub fn owner(&self) -> Party<H> {
        self.owner
    }

    /// How many offers there have been: the last one's ticket.
    pub fn offers(&self) -> u64 {
        self.offers
    }

    /// Who made the last offer.
    pub fn giver(&self) -> Option<Party<H>> {
        (self.offers != 0).then_some(self.giver)
    }

    /// The offer that stands, if one does.
    pub fn offer_made(&self) -> Option<&Offer<H>> {
        self.offer.as_ref()
    }

    /// The owner offers it. Returns the offer's ticket.
    ///
    /// # Errors
    ///
    /// `EACCES`: it is not `by`'s; `EBUSY`: it is offered to another; `EINVAL`: to oneself.
    pub fn offer(&mut self, by: Party<H>, to: Party<H>) -> Result<u64> {
        if self.owner != by {
            return Err(EACCES);
        }
        match self.offer {
            Some(offer) if offer.to == to => return Ok(offer.ticket),
            Some(_) => return Err(EBUSY),
            None if to == by => return Err(EINVAL),
            None => (),
        }
        // More than any machine makes in its life.
        let ticket = self.offers.checked_add(1).ok_or(EBUSY)?;
        self.offers = ticket;
        self.giver = by;
        self.committed = false;
        self.offer = Some(Offer {
            ticket,
            to,
            accepted: false,
        });
        Ok(ticket)
    }

    /// The one to whom it is offered says that it has begun to look at it. Returns the ticket.
    ///
    /// # Errors
    ///
    /// `EACCES`: it is not offered to `by`.
    pub fn accept(&mut self, by: Party<H>) -> Result<u64> {
        match &mut self.offer {
            Some(offer) if offer.to == by => {
                offer.accepted = true;
                Ok(offer.ticket)
            }
            _ => Err(EACCES),
        }
    }

    /// The one who has accepted takes it over: the step that changes the owner.
    ///
    /// # Errors
    ///
    /// `ESTALE`: the offer does not stand any more; `EACCES`: it has not been accepted, or is
    /// another's.
    pub fn commit(&mut self, by: Party<H>, ticket: u64) -> Result {
        match self.offer {
            Some(offer) if offer.ticket == ticket => {
                if offer.to != by || !offer.accepted {
                    return Err(EACCES);
                }
                self.owner = by;
                self.committed = true;
                self.offer = None;
                Ok(())
            }
            // Once more.
            _ if ticket == self.offers && self.committed && self.owner == by => Ok(()),
            _ => Err(ESTALE),
        }
    }

    /// Either of the two calls it off. With ticket 0 the owner calls off whatever offer stands, and
    /// who has accepted that one.
    ///
    /// # Errors
    ///
    /// `ESTALE`: it has been committed, or is not the last offer; `EACCES`: it is neither's.
    pub fn abort(&mut self, by: Party<H>, ticket: u64) -> Result {
        match self.offer {
            Some(offer)
                if offer.ticket == ticket
                    || ticket == 0 && (self.owner == by || offer.to == by && offer.accepted) =>
            {
                if offer.to != by && self.owner != by {
                    return Err(EACCES);
                }
                self.offer = None;
                Ok(())
            }
            // Once more, or none that stands.
            None if ticket == self.offers && !self.committed && ticket != 0 => Ok(()),
            None if ticket == 0 && self.owner == by => Ok(()),
            _ => Err(ESTALE),
        }
    }

    /// What has become of an offer, for one of the two.
    ///
    /// # Errors
    ///
    /// `ESTALE`: it is not the last offer; `EACCES`: it is neither's.
    pub fn outcome(&self, by: Party<H>, ticket: u64) -> Result<Outcome> {
        if ticket == 0 || ticket != self.offers {
            return Err(ESTALE);
        }
        if by != self.giver && by != self.owner && self.offer.is_none_or(|offer| offer.to != by) {
            return Err(EACCES);
        }
        Ok(match self.offer {
            Some(offer) if offer.accepted => Outcome::Accepted,
            Some(_) => Outcome::Offered,
            None if self.committed => Outcome::Committed,
            None => Outcome::Aborted,
        })
    }

    /// A kernel has ended, in whichever way, and this was one of its lives. What it owned is its
    /// next life's, and what it offered stays offered: nobody has changed that since. What it had
    /// accepted is the old owner's.
    pub fn ended(&mut self, party: Party<H>) {
        self.offer = self
            .offer
            .filter(|offer| offer.to != party || !offer.accepted);
    }

    /// An instance is there no more. What it owned is the host's; an offer that it made stands, so
    /// that an upgrade may go on, unless it was one to the host, which has it now.
    pub fn forget(&mut self, party: Party<H>) {
        self.offer = self.offer.filter(|offer| offer.to != party);
        if self.owner == party {
            self.owner = Party::Host;
            self.offer = self.offer.filter(|offer| offer.to != Party::Host);
        }
    }

    /// The host takes it from an instance that does not run.
    pub fn seize(&mut self) {
        self.offer = None;
        self.owner = Party::Host;
    }
}

#[cfg(CONFIG_MULTIKERNEL_KUNIT_TEST)]
#[kunit_tests(multikernel_ownership)]
mod tests {
    use super::*;

    const HOST: Party<u32> = Party::Host;
    const A: Party<u32> = Party::Instance(1);
    const B: Party<u32> = Party::Instance(2);

    #[test]
    fn every_step_twice() -> Result {
        let mut it = Ownership::new(A);
        let ticket = it.offer(A, B)?;
        assert_eq!(it.offer(A, B), Ok(ticket));
        assert_eq!(it.outcome(A, ticket), Ok(Outcome::Offered));
        assert_eq!(it.accept(B), Ok(ticket));
        assert_eq!(it.accept(B), Ok(ticket));
        assert_eq!(it.outcome(A, ticket), Ok(Outcome::Accepted));
        assert_eq!(it.owner(), A);
        assert_eq!(it.commit(B, ticket), Ok(()));
        assert_eq!(it.owner(), B);
        assert_eq!(it.commit(B, ticket), Ok(()));
        assert_eq!(it.outcome(A, ticket), Ok(Outcome::Committed));
        assert_eq!(it.outcome(B, ticket), Ok(Outcome::Committed));
        assert_eq!(it.abort(A, ticket), Err(ESTALE));
        assert_eq!(it.abort(B, ticket), Err(ESTALE));
        assert_eq!(it.owner(), B);

        let ticket = it.offer(B, HOST)?;
        assert_eq!(it.abort(B, ticket), Ok(()));
        assert_eq!(it.abort(B, ticket), Ok(()));
        assert_eq!(it.outcome(B, ticket), Ok(Outcome::Aborted));
        assert_eq!(it.commit(HOST, ticket), Err(ESTALE));
        assert_eq!(it.owner(), B);
        Ok(())
    }

    #[test]
    fn not_by_others() -> Result {
        let mut it = Ownership::new(A);
        assert_eq!(it.offer(B, A), Err(EACCES));
        assert_eq!(it.offer(A, A), Err(EINVAL));
        assert_eq!(it.accept(B), Err(EACCES));
        assert_eq!(it.commit(B, 0), Err(ESTALE));
        assert_eq!(it.abort(B, 0), Err(ESTALE));
        let ticket = it.offer(A, B)?;
        assert_eq!(it.offer(A, HOST), Err(EBUSY));
        assert_eq!(it.accept(A), Err(EACCES));
        assert_eq!(it.accept(HOST), Err(EACCES));
        // Not before it has been accepted.
        assert_eq!(it.commit(B, ticket), Err(EACCES));
        it.accept(B)?;
        assert_eq!(it.commit(A, ticket), Err(EACCES));
        assert_eq!(it.commit(B, ticket + 1), Err(ESTALE));
        assert_eq!(it.commit(B, 0), Err(ESTALE));
        assert_eq!(it.abort(HOST, ticket), Err(EACCES));
        assert_eq!(it.abort(HOST, 0), Err(ESTALE));
        assert_eq!(it.outcome(HOST, ticket), Err(EACCES));
        assert_eq!(it.owner(), A);
        Ok(())
    }

    #[test]
    fn an_old_ticket_does_nothing() -> Result {
        let mut it = Ownership::new(A);
        let old = it.offer(A, B)?;
        it.accept(B)?;
        it.abort(A, 0)?;
        let new = it.offer(A, B)?;
        assert_ne!(old, new);
        assert_eq!(it.commit(B, old), Err(ESTALE));
        assert_eq!(it.abort(B, old), Err(ESTALE));
        assert_eq!(it.outcome(B, old), Err(ESTALE));
        // What was accepted was the other one.
        assert_eq!(it.commit(B, new), Err(EACCES));
        Ok(())
    }

    #[test]
    fn who_ends() -> Result {
        let mut it = Ownership::new(A);
        let ticket = it.offer(A, B)?;
        it.ended(A);
        it.ended(B);
        assert_eq!(it.outcome(A, ticket), Ok(Outcome::Offered));
        it.accept(B)?;
        it.ended(A);
        assert_eq!(it.outcome(A, ticket), Ok(Outcome::Accepted));
        it.ended(B);
        assert_eq!(it.outcome(A, ticket), Ok(Outcome::Aborted));
        assert_eq!(it.commit(B, ticket), Err(ESTALE));
        assert_eq!(it.owner(), A);

        let ticket = it.offer(A, B)?;
        it.accept(B)?;
        it.forget(A);
        assert_eq!(it.owner(), HOST);
        assert_eq!(it.commit(B, ticket), Ok(()));
        assert_eq!(it.owner(), B);
        it.offer(B, HOST)?;
        it.forget(B);
        assert_eq!(it.owner(), HOST);
        assert!(it.offer_made().is_none());
        Ok(())
    }
}
