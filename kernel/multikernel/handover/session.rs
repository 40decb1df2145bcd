// SPDX-License-Identifier: GPL-2.0

//! A session that is open in this kernel, the host's or a spawn's: its entries, and the steps by
//! which it goes to another kernel.
//!
//! Whose it is the host decides, see [`ask`]; a [`Session`] remembers what it was told last, its
//! [`Role`], and does not touch the arena's memory in any other. Its mutex guards role and table,
//! and is held while entries are copied and the host is asked; the registry's nests inside it.

use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        Mutex,
        SetOnce, //
    }, //
};

#[cfg(CONFIG_MULTIKERNEL_GUEST)]
use super::guest;
use super::{
    arbiter,
    arena::ArenaFile,
    news,
    ownership::Outcome,
    table::{
        Entry,
        Key,
        Kind,
        Memory,
        Refusal,
        Table, //
    },
    wire::{
        Asked,
        Step,
        Told, //
    }, //
};
#[cfg(CONFIG_MULTIKERNEL_GUEST)]
use crate::foreign::{
    self,
    ForeignMemory, //
};
use crate::{
    abi::NAME_LENGTH,
    fault,
    foreign::SharedBytes,
    instance::Name,
    registry::Subsystem, //
};

/// Has the host make a step.
///
/// # Errors
///
/// What the host says, and in a spawn those of a call: after `EINTR`, `ETIMEDOUT` and `EPIPE` the
/// step may have been made.
fn ask(name: &Name, step: Step) -> Result<Told> {
    let asked = Asked {
        name: *name.field(),
        step,
        sequence: 0,
    };
    #[cfg(CONFIG_MULTIKERNEL_GUEST)]
    if crate::guest::active() {
        return guest::ask_session(&asked);
    }
    arbiter::decide(Subsystem::get()?, &asked)
}

/// Whether a step that failed like this may have been made nevertheless.
fn is_in_doubt(error: Error) -> bool {
    [EINTR, ETIMEDOUT, EPIPE, EPROTO, EMSGSIZE].contains(&error)
}

/// What is open in this kernel.
static OPEN: SetOnce<Pin<KBox<Mutex<KVec<Use>>>>> = SetOnce::new();

/// To be called once, at boot.
///
/// # Errors
///
/// `ENOMEM`.
pub(super) fn set_up() -> Result {
    OPEN.populate(KBox::pin_init(
        new_mutex!(KVec::new(), "multikernel::open_sessions"),
        GFP_KERNEL,
    )?);
    news::set_up()
}

/// What an arena's memory is used for.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Use {
    name: Name,
    is_session: bool,
}

/// That an arena's memory is used in this kernel: by one session, or, in a spawn, by any number of
/// files of the arena. The host counts its own files, and those of no spawn.
pub(super) struct Claim(Use);

impl Claim {
    /// For a session.
    ///
    /// # Errors
    ///
    /// `EBUSY`: it is used; `ENOMEM`.
    fn new(name: &Name) -> Result<Self> {
        Self::add(name, true)
    }

    /// For a file of an arena's.
    ///
    /// # Errors
    ///
    /// `EBUSY`: a session is open in it; `ENOMEM`.
    #[cfg(CONFIG_MULTIKERNEL_GUEST)]
    pub(super) fn of_arena(name: &Name) -> Result<Self> {
        Self::add(name, false)
    }

    fn add(name: &Name, is_session: bool) -> Result<Self> {
        let mut open = OPEN.as_ref().ok_or(EOPNOTSUPP)?.lock();
        let other = |it: &Use| it.name == *name && (is_session || it.is_session);
        if open.iter().any(other) {
            return Err(EBUSY);
        }
        let name = *name;
        let used = Use { name, is_session };
        open.push(used, GFP_KERNEL)?;
        Ok(Self(used))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let Some(open) = OPEN.as_ref() else { return };
        let mut open = open.lock();
        // Of files there may be several alike, of which one goes.
        if let Some(at) = open.iter().position(|it| *it == self.0) {
            let _ = open.remove(at);
        }
    }
}

/// An arena's memory, which stays where it is for as long as this lives.
enum Backing {
    /// On the host.
    Host(ArenaFile),
    /// In a spawn.
    #[cfg(CONFIG_MULTIKERNEL_GUEST)]
    Spawn(ForeignMemory),
}

impl Backing {
    /// The memory of the session of which `told` says where it is.
    fn new(name: &Name, told: &Told) -> Result<Self> {
        #[cfg(CONFIG_MULTIKERNEL_GUEST)]
        if crate::guest::active() {
            if told.base == 0 {
                return Err(EPROTO);
            }
            // A file system may be at work there.
            if foreign::is_persistent_memory(told.base, told.size) {
                return Err(EBUSY);
            }
            return Ok(Self::Spawn(ForeignMemory::new(told.base, told.size)?));
        }
        let arena = ArenaFile::open_for_session(Subsystem::get()?, name)?;
        // It may be another of this name by now.
        if (arena.place().base, arena.place().size) != (told.base, told.size) {
            return Err(ESTALE);
        }
        Ok(Self::Host(arena))
    }

    fn bytes(&self) -> &SharedBytes {
        match self {
            Self::Host(arena) => arena.bytes(),
            #[cfg(CONFIG_MULTIKERNEL_GUEST)]
            Self::Spawn(memory) => memory.bytes(),
        }
    }

    fn base(&self) -> u64 {
        match self {
            Self::Host(arena) => arena.place().base,
            #[cfg(CONFIG_MULTIKERNEL_GUEST)]
            Self::Spawn(memory) => memory.range().0,
        }
    }
}

/// What this kernel is to a session, as far as it knows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Its owner.
    Owner,
    /// Its owner, who has offered it, or has tried to: ticket 0.
    Offering(u64),
    /// Who has accepted it.
    Adopter(u64),
    /// None: it has gone to another.
    Former,
}

struct State {
    role: Role,
    table: Table,
}

/// A session that is open.
#[pin_data]
pub(crate) struct Session {
    claim: Claim,
    backing: Backing,
    /// How many files of its pages are open.
    pages: Atomic<usize>,
    #[pin]
    state: Mutex<State>,
}

impl Session {
    fn new(claim: Claim, backing: Backing, role: Role, table: Table) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                claim,
                backing,
                pages: Atomic::new(0),
                state <- new_mutex!(State { role, table }, "multikernel::session"),
            }),
            GFP_KERNEL,
        )
    }

    /// Makes a session in the arena of its name, whatever was there.
    ///
    /// # Errors
    ///
    /// As `MULTIKERNEL_IOCTL_SESSION_CREATE`.
    pub(crate) fn create(name: &Name) -> Result<Arc<Self>> {
        let claim = Claim::new(name)?;
        #[cfg(CONFIG_MULTIKERNEL_GUEST)]
        if crate::guest::active() {
            guest::check_not_persistent(name)?;
        }
        let told = ask(name, Step::Create)?;
        let made = Backing::new(name, &told).and_then(|backing| {
            let table = Table::format(backing.bytes(), name.field())?;
            Self::new(claim, backing, Role::Owner, table)
        });
        if made.is_err() {
            // Nobody has it open, unless another has just opened it: then it is theirs. If this
            // fails it is there, and cannot be read.
            let _ = Self::remove(name);
        }
        made
    }

    /// Opens a session that this kernel owns.
    ///
    /// # Errors
    ///
    /// As `MULTIKERNEL_IOCTL_SESSION_OPEN`.
    pub(crate) fn open(name: &Name) -> Result<Arc<Self>> {
        Self::open_as(Claim::new(name)?)
    }

    /// As [`Self::open`], of a session that the host takes from an instance that does not run.
    ///
    /// # Errors
    ///
    /// As `MULTIKERNEL_IOCTL_SESSION_OPEN` with `MULTIKERNEL_SESSION_SEIZE`; in a spawn
    /// `EOPNOTSUPP`.
    pub(crate) fn seize(name: &Name) -> Result<Arc<Self>> {
        // Not from who has it open here.
        let claim = Claim::new(name)?;
        arbiter::seize(Subsystem::get()?, name)?;
        Self::open_as(claim)
    }

    fn open_as(claim: Claim) -> Result<Arc<Self>> {
        let name = &claim.0.name;
        let told = ask(name, Step::Open)?;
        let backing = Backing::new(name, &told)?;
        let table = read(&backing, name)?;
        let role = match told.ticket {
            0 => Role::Owner,
            ticket => Role::Offering(ticket),
        };
        Self::new(claim, backing, role, table)
    }

    /// Accepts a session that is offered to this kernel, or will be within that time. Returns also
    /// the offer's ticket.
    ///
    /// # Errors
    ///
    /// As `MULTIKERNEL_IOCTL_SESSION_ACCEPT`.
    pub(crate) fn accept(name: &Name, timeout_ms: u32) -> Result<(Arc<Self>, u64)> {
        let claim = Claim::new(name)?;
        let told = news::wait_for(timeout_ms, || match ask(name, Step::Accept) {
            Ok(told) => Ok(Some(told)),
            Err(EACCES | ENOENT | EBUSY) if timeout_ms != 0 => Ok(None),
            Err(error) => {
                if is_in_doubt(error) {
                    // It may have been accepted, and nobody will look at it.
                    let _ = ask(name, Step::Abort(0));
                }
                Err(error)
            }
        })?;
        let ticket = told.ticket;
        let opened = Backing::new(name, &told).and_then(|backing| {
            let table = read(&backing, name)?;
            Self::new(claim, backing, Role::Adopter(ticket), table)
        });
        if opened.is_err() {
            // The owner keeps it. If this fails the offer stands, and can be accepted again.
            let _ = ask(name, Step::Abort(ticket));
        }
        Ok((opened?, ticket))
    }

    /// Has the session of this name, which this kernel owns and has not open, be none any more.
    ///
    /// # Errors
    ///
    /// As `MULTIKERNEL_IOCTL_SESSION_REMOVE`.
    pub(crate) fn remove(name: &Name) -> Result {
        let _claim = Claim::new(name)?;
        ask(name, Step::Remove).map(drop)
    }

    fn name(&self) -> &Name {
        &self.claim.0.name
    }

    /// Undoes [`Self::create`], before anybody has used what that returned.
    pub(crate) fn discard(&self) {
        let mut state = self.state.lock();
        // If this fails, because the host cannot be asked, there is a session without entries.
        let _ = ask(self.name(), Step::Remove);
        state.role = Role::Former;
    }

    /// The offer that stands, as far as this kernel knows; 0 if none does.
    pub(crate) fn ticket(&self) -> u64 {
        match self.state.lock().role {
            Role::Offering(ticket) | Role::Adopter(ticket) => ticket,
            Role::Owner | Role::Former => 0,
        }
    }

    /// That entries may be changed.
    fn check_owner(&self, state: &mut State) -> Result {
        if let Role::Offering(ticket) = state.role {
            // It may have been called off meanwhile.
            self.look(state, ticket)?;
        }
        match state.role {
            Role::Owner => Ok(()),
            Role::Offering(_) | Role::Adopter(_) => Err(EBUSY),
            Role::Former => Err(ESTALE),
        }
    }

    /// Sees what has become of an offer of this kernel's, and takes the role that follows.
    fn look(&self, state: &mut State, ticket: u64) -> Result<Outcome> {
        let looked = match ticket {
            // Whether it was made is not known.
            0 => Err(ESTALE),
            ticket => ask(self.name(), Step::Look(ticket)),
        };
        let outcome = match looked {
            Ok(told) => told.outcome,
            // It is not the last one: another may stand, by this kernel or by a new owner.
            Err(ESTALE | ENOENT | EACCES) => match ask(self.name(), Step::Open) {
                Ok(told) if told.ticket != 0 => {
                    state.role = Role::Offering(told.ticket);
                    told.outcome
                }
                Ok(_) => Outcome::Aborted,
                Err(ENOENT | EACCES) => Outcome::Committed,
                Err(error) => return Err(error),
            },
            Err(error) => return Err(error),
        };
        match outcome {
            Outcome::Offered | Outcome::Accepted => {}
            Outcome::Committed => state.role = Role::Former,
            Outcome::Aborted => state.role = Role::Owner,
        }
        Ok(outcome)
    }

    /// Sees what has become of an offer that this kernel has accepted, and takes the role that
    /// follows: the host may have committed it, for this kernel.
    fn look_as_adopter(&self, state: &mut State, ticket: u64) -> Result<Outcome> {
        let outcome = match ask(self.name(), Step::Look(ticket)) {
            Ok(told) => told.outcome,
            // It has been called off, and offered again or to another.
            Err(ESTALE | ENOENT | EACCES) => Outcome::Aborted,
            Err(error) => return Err(error),
        };
        match outcome {
            Outcome::Offered | Outcome::Accepted => {}
            Outcome::Committed => state.role = Role::Owner,
            Outcome::Aborted => state.role = Role::Former,
        }
        Ok(outcome)
    }

    /// Puts an entry into the session, of which `fill` writes the contents; another of the same key
    /// goes, at the same instant. `fill` is given where to write to, and how much.
    ///
    /// # Errors
    ///
    /// As `MULTIKERNEL_IOCTL_SESSION_PUT`, and what `fill` fails with; nothing has changed then.
    pub(crate) fn put(
        &self,
        key: Key,
        kind: Kind,
        length: u64,
        fill: impl FnOnce(&SharedBytes, u64) -> Result,
    ) -> Result {
        let mut state = self.state.lock();
        self.check_owner(&mut state)?;
        self.check_pages(&state.table, &key)?;
        let entry = state.table.place(key, kind, length)?;
        let memory = self.backing.bytes();
        fill(memory, entry.offset)?;
        fault::hold(fault::HOLD_PUT);
        state.table.publish(memory, entry)
    }

    /// Takes an entry out of the session.
    ///
    /// # Errors
    ///
    /// As `MULTIKERNEL_IOCTL_SESSION_DELETE`.
    pub(crate) fn delete(&self, key: &Key) -> Result {
        let mut state = self.state.lock();
        self.check_owner(&mut state)?;
        self.check_pages(&state.table, key)?;
        state.table.delete(self.backing.bytes(), key)
    }

    /// That no pages are open which are about to go.
    fn check_pages(&self, table: &Table, key: &Key) -> Result {
        let pages = table.find(key).is_some_and(|it| it.kind == Kind::Pages);
        if pages && self.pages.load(Relaxed) != 0 {
            return Err(EBUSY);
        }
        Ok(())
    }

    /// Has `with` look at an entry; also whether this kernel may write to its pages.
    ///
    /// # Errors
    ///
    /// As `MULTIKERNEL_IOCTL_SESSION_GET`, and what `with` fails with.
    pub(crate) fn get<T>(
        &self,
        key: &Key,
        with: impl FnOnce(&SharedBytes, &Entry, bool) -> Result<T>,
    ) -> Result<T> {
        let mut state = self.state.lock();
        let is_adopter = matches!(state.role, Role::Adopter(_));
        if !is_adopter {
            self.check_owner(&mut state)?;
        }
        let entry = state.table.find(key).ok_or(ENOENT)?;
        with(self.backing.bytes(), entry, !is_adopter)
    }

    /// Has `with` look at all entries.
    ///
    /// # Errors
    ///
    /// What `with` fails with.
    pub(crate) fn list<T>(&self, with: impl FnOnce(&[Entry]) -> Result<T>) -> Result<T> {
        with(self.state.lock().table.entries())
    }

    /// Offers the session to an instance, or to the host if the name is all zero; returns the
    /// offer's ticket.
    ///
    /// # Errors
    ///
    /// As `MULTIKERNEL_IOCTL_SESSION_OFFER`.
    pub(crate) fn offer(&self, to: &[u8; NAME_LENGTH]) -> Result<u64> {
        let mut state = self.state.lock();
        match state.role {
            Role::Owner | Role::Offering(_) => {}
            Role::Adopter(_) => return Err(EACCES),
            Role::Former => return Err(ESTALE),
        }
        // New ones are opened with the mutex held.
        if self.pages.load(Relaxed) != 0 {
            return Err(EBUSY);
        }
        match ask(self.name(), Step::Offer(*to)) {
            Ok(told) => {
                state.role = Role::Offering(told.ticket);
                Ok(told.ticket)
            }
            Err(error) => {
                if is_in_doubt(error) {
                    state.role = Role::Offering(0);
                }
                if error == EACCES {
                    // It is another's: an offer that was in doubt had been made.
                    state.role = Role::Former;
                }
                Err(error)
            }
        }
    }

    /// Makes the session that was accepted this kernel's.
    ///
    /// # Errors
    ///
    /// As `MULTIKERNEL_IOCTL_SESSION_COMMIT`.
    pub(crate) fn commit(&self) -> Result {
        let mut state = self.state.lock();
        let ticket = match state.role {
            Role::Adopter(ticket) => ticket,
            Role::Owner => return Ok(()),
            Role::Offering(_) => return Err(EACCES),
            Role::Former => return Err(ESTALE),
        };
        match ask(self.name(), Step::Commit(ticket)) {
            Ok(_) => {
                state.role = Role::Owner;
                Ok(())
            }
            Err(error) => {
                if error == ESTALE || error == ENOENT {
                    state.role = Role::Former;
                }
                Err(error)
            }
        }
    }

    /// Calls off the offer, by either side.
    ///
    /// # Errors
    ///
    /// As `MULTIKERNEL_IOCTL_SESSION_ABORT`.
    pub(crate) fn abort(&self) -> Result {
        let mut state = self.state.lock();
        let (ticket, after) = match state.role {
            Role::Offering(ticket) => (ticket, Role::Owner),
            Role::Adopter(ticket) => (ticket, Role::Former),
            Role::Owner => return Ok(()),
            Role::Former => return Err(ESTALE),
        };
        match ask(self.name(), Step::Abort(ticket)) {
            Ok(_) => {
                state.role = after;
                Ok(())
            }
            // An adopter whose commit was made without its hearing of it has to open it.
            Err(ESTALE) if after == Role::Former => {
                state.role = after;
                Err(ESTALE)
            }
            // It has been committed, or another offer of this kernel's stands.
            Err(ESTALE) => match self.look(&mut state, 0)? {
                Outcome::Aborted => Ok(()),
                Outcome::Committed => Err(ESTALE),
                Outcome::Offered | Outcome::Accepted => {
                    ask(self.name(), Step::Abort(0))?;
                    state.role = after;
                    Ok(())
                }
            },
            Err(error) => Err(error),
        }
    }

    /// Waits until the offer has been committed or called off; says whether it was committed.
    ///
    /// # Errors
    ///
    /// As `MULTIKERNEL_IOCTL_SESSION_WAIT`.
    pub(crate) fn wait(&self, timeout_ms: u32) -> Result<bool> {
        let waiting_as = self.state.lock().role;
        news::wait_for(timeout_ms, || {
            let mut state = self.state.lock();
            let looked = match (state.role, waiting_as) {
                // Another thread of this kernel has seen the end.
                (Role::Owner | Role::Offering(_), Role::Adopter(_))
                | (Role::Former, Role::Offering(_)) => Ok(Outcome::Committed),
                (Role::Owner, Role::Offering(_)) | (Role::Former, Role::Adopter(_)) => {
                    Ok(Outcome::Aborted)
                }
                (Role::Offering(now), Role::Offering(then)) if now != then && then != 0 => {
                    Ok(Outcome::Aborted)
                }
                (Role::Offering(ticket), _) => self.look(&mut state, ticket),
                (Role::Adopter(ticket), _) => self.look_as_adopter(&mut state, ticket),
                (Role::Former, _) => Err(ESTALE),
                (Role::Owner, _) => Err(EINVAL),
            };
            let outcome = match looked {
                // The host has too many requests of this kernel at the moment.
                Err(EBUSY) => return Ok(None),
                looked => looked?,
            };
            Ok(match outcome {
                Outcome::Committed => Some(true),
                Outcome::Aborted => Some(false),
                Outcome::Offered | Outcome::Accepted => None,
            })
        })
    }

    /// Who has it open does not need it any more: what was accepted and not committed stays with
    /// the owner.
    pub(crate) fn close(&self) {
        let state = self.state.lock();
        if let Role::Adopter(ticket) = state.role {
            // If this fails, because the host cannot be asked, the offer stays accepted, and this
            // kernel can accept it again.
            let _ = ask(self.name(), Step::Abort(ticket));
        }
    }
}

/// Copies and checks the table of a session.
fn read(backing: &Backing, name: &Name) -> Result<Table> {
    Table::read(backing.bytes(), name.field()).map_err(|refusal: Refusal| {
        pr_warn!(
            "session {} was refused: {}\n",
            name.as_str(),
            refusal.as_str()
        );
        refusal.errno()
    })
}

/// A part of a session's memory that processes map: an entry's pages.
pub(crate) struct Pages {
    session: Arc<Session>,
    offset: u64,
    length: u64,
    writable: bool,
}

impl Pages {
    /// The pages of an entry, in a call of [`Session::get`] for it.
    pub(crate) fn new(session: &Arc<Session>, entry: &Entry, writable: bool) -> Self {
        session.pages.add(1, Relaxed);
        Self {
            session: session.clone(),
            offset: entry.offset,
            length: entry.length,
            writable,
        }
    }

    /// Whether they may be written to.
    pub(crate) fn writable(&self) -> bool {
        self.writable
    }

    /// Where this kernel has them, how many bytes, and whether they may be written to.
    ///
    /// # Errors
    ///
    /// `EINVAL`, which does not happen: they were checked to be inside the arena.
    pub(super) fn place(&self) -> Result<(*mut u8, u64, bool)> {
        let at = self.session.backing.bytes().at(self.offset, self.length)?;
        Ok((at, self.length, self.writable))
    }

    /// Physical address and length.
    pub(crate) fn range(&self) -> (u64, u64) {
        // It was checked to be inside the arena.
        (self.session.backing.base() + self.offset, self.length)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.session.pages.fetch_sub(1, Relaxed);
    }
}

impl Memory for SharedBytes {
    fn size(&self) -> u64 {
        SharedBytes::size(self)
    }

    fn read(&self, offset: u64, to: &mut [u8]) -> Result {
        SharedBytes::read(self, offset, to)
    }

    fn write(&self, offset: u64, from: &[u8]) -> Result {
        SharedBytes::write(self, offset, from)
    }

    fn store(&self, offset: u64, value: u64) -> Result {
        SharedBytes::store(self, offset, value)
    }
}
