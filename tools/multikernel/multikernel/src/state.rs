// SPDX-License-Identifier: GPL-2.0

//! What was loaded into an instance, remembered in `/run/multikernel/NAME.json`.
//!
//! The kernel holds a loaded image, but does not know which files it came from, and an image can be
//! started once only. So a later start, and `ps`, need this. A file that does not belong to the
//! instance of this name and id is ignored: the instance was removed and made anew by others.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process;

use serde::{Deserialize, Serialize};

use crate::load::{LoadSpec, Loaded};
use crate::{Error, Result};

/// Where the files are.
pub const DIRECTORY: &str = "/run/multikernel";
/// Version of the files' format.
const VERSION: u32 = 1;

/// What is remembered of one instance.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Record {
    version: u32,
    /// The instance's id.
    pub id: u32,
    /// What the user asked for.
    pub spec: LoadSpec,
    /// What came of it.
    pub loaded: Loaded,
    /// The id of the instance that had the name before, and was upgraded to this one.
    #[serde(default)]
    pub successor_of: Option<u32>,
}

impl Record {
    /// A record of what was just loaded.
    pub fn new(id: u32, spec: LoadSpec, loaded: Loaded) -> Self {
        Self {
            version: VERSION,
            id,
            spec,
            loaded,
            successor_of: None,
        }
    }
}

/// How far the upgrade of an instance has come, in `NAME.upgrade`, for who goes on after `mkctl`
/// has been killed.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Upgrade {
    version: u32,
    /// Id of the instance that has the name at the beginning.
    pub old: u32,
    /// Id of the one that is to have it, once that has been created.
    pub new: Option<u32>,
    /// From here on it goes forward only.
    pub committed: bool,
    /// What the pool was enlarged by: base and size of each range.
    pub grown: Vec<(u64, u64)>,
    /// What goes back to the host in its place when the old one is gone.
    pub give_back: Vec<(u64, u64)>,
    /// CPUs of the old one that the new one gets.
    pub cpus: Vec<u32>,
    /// `LoadSpec::later_cpus` of the new one when all is done.
    pub later_cpus: Vec<u32>,
}

impl Upgrade {
    /// One that begins.
    pub fn new(old: u32) -> Self {
        Self {
            version: VERSION,
            old,
            new: None,
            committed: false,
            grown: Vec::new(),
            give_back: Vec::new(),
            cpus: Vec::new(),
            later_cpus: Vec::new(),
        }
    }
}

/// The directory with the records.
#[derive(Clone, Debug)]
pub struct Store {
    directory: PathBuf,
}

impl Default for Store {
    fn default() -> Self {
        Self::at(DIRECTORY)
    }
}

impl Store {
    /// A store in another directory.
    pub fn at(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
        }
    }

    fn path(&self, name: &str, kind: &str) -> PathBuf {
        // The kernel's rules for names leave nothing in them that means something in a path.
        self.directory.join(format!("{name}.{kind}"))
    }

    fn ensure_directory(&self) -> io::Result<()> {
        // Command lines may carry secrets: root only.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
    }

    /// Remembers; the file is either the old or the new one, whatever happens.
    pub fn save(&self, name: &str, record: &Record) -> Result<()> {
        let asked = format!("cannot remember what was loaded into instance \"{name}\"");
        self.write(asked, name, "json", record)
    }

    /// Remembers how far an upgrade has come.
    pub fn save_upgrade(&self, name: &str, upgrade: &Upgrade) -> Result<()> {
        let asked = format!("cannot remember how far the upgrade of instance \"{name}\" is");
        self.write(asked, name, "upgrade", upgrade)
    }

    fn write(&self, asked: String, name: &str, kind: &str, record: &impl Serialize) -> Result<()> {
        let path = self.path(name, kind);
        let temporary = self.directory.join(format!(".{name}.{}", process::id()));
        let write = || -> io::Result<()> {
            self.ensure_directory()?;
            let text = serde_json::to_vec_pretty(record)?;
            let mut file = File::options()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(&text)?;
            fs::rename(&temporary, &path)
        };
        write().map_err(|error| {
            // What could not be written is of no use to anybody.
            let _ = fs::remove_file(&temporary);
            Error::new(asked, format_args!("{}: {error}", path.display()))
        })
    }

    /// How far the upgrade of the instance of this name is; `None` if there is none under way.
    pub fn upgrade(&self, name: &str) -> Option<Upgrade> {
        let text = fs::read(self.path(name, "upgrade")).ok()?;
        let upgrade: Upgrade = serde_json::from_slice(&text).ok()?;
        (upgrade.version == VERSION).then_some(upgrade)
    }

    /// There is no upgrade under way any more.
    pub fn forget_upgrade(&self, name: &str) {
        let _ = fs::remove_file(self.path(name, "upgrade"));
    }

    /// What was loaded into the instance of this name and id; `None` where nothing is known.
    pub fn get(&self, name: &str, id: u32) -> Option<Record> {
        let text = fs::read(self.path(name, "json")).ok()?;
        let record: Record = serde_json::from_slice(&text).ok()?;
        (record.version == VERSION && record.id == id).then_some(record)
    }

    /// Forgets; not to have known is no error.
    pub fn forget(&self, name: &str) {
        let _ = fs::remove_file(self.path(name, "json"));
    }

    /// Opens the file that is locked by who writes to the instance's console.
    pub fn console_lock(&self, name: &str) -> io::Result<File> {
        self.lock_file(name, "console")
    }

    /// Opens the file that is locked by who upgrades the instance.
    pub fn upgrade_lock(&self, name: &str) -> io::Result<File> {
        self.lock_file(name, "upgrade-lock")
    }

    fn lock_file(&self, name: &str, kind: &str) -> io::Result<File> {
        self.ensure_directory()?;
        File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.path(name, kind))
    }
}

/// Makes a path absolute, so that it means the same to a later start.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path)
        .map_err(|error| Error::new(format!("cannot use the file {}", path.display()), error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Range;

    fn record(id: u32) -> Record {
        let spec = LoadSpec {
            kernel: "/boot/vmlinuz".into(),
            initrd: None,
            append: "quiet".into(),
            fast: true,
            uarts: vec!["ttyS2".parse().unwrap()],
            guest: true,
            later_cpus: Vec::new(),
            pmem: vec!["data".into()],
        };
        let loaded = Loaded {
            format: "vmlinux".into(),
            entry: 1,
            argument: 2,
            command_line: "x".into(),
            cpus: 2,
            pmem: vec![Range::new(1 << 32, 2 << 20)],
        };
        Record::new(id, spec, loaded)
    }

    #[test]
    fn remembered_and_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::at(directory.path().join("new"));
        assert_eq!(store.get("web", 3), None);
        store.save("web", &record(3)).unwrap();
        assert_eq!(store.get("web", 3), Some(record(3)));
        // Another instance by the same name.
        assert_eq!(store.get("web", 4), None);
        store.save("web", &record(4)).unwrap();
        assert_eq!(store.get("web", 4), Some(record(4)));
        assert_eq!(
            fs::read_dir(directory.path().join("new")).unwrap().count(),
            1
        );
        store.forget("web");
        store.forget("web");
        assert_eq!(store.get("web", 4), None);
    }

    #[test]
    fn an_upgrade_is_remembered_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::at(directory.path());
        assert_eq!(store.upgrade("web"), None);
        let mut upgrade = Upgrade::new(3);
        store.save_upgrade("web", &upgrade).unwrap();
        store.save("web", &record(3)).unwrap();
        upgrade.new = Some(4);
        upgrade.committed = true;
        upgrade.cpus = vec![5, 6];
        store.save_upgrade("web", &upgrade).unwrap();
        assert_eq!(store.upgrade("web"), Some(upgrade));
        assert_eq!(store.upgrade("web.next"), None);
        store.forget_upgrade("web");
        store.forget_upgrade("web");
        assert_eq!(store.upgrade("web"), None);
        assert_eq!(store.get("web", 3), Some(record(3)));
    }

    #[test]
    fn what_is_not_a_record_is_ignored() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::at(directory.path());
        for text in ["", "{}", "[1]", "{\"version\":2}"] {
            fs::write(directory.path().join("web.json"), text).unwrap();
            assert_eq!(store.get("web", 1), None);
        }
    }

    #[test]
    fn a_place_that_cannot_be_written() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Store::at(file.path()).save("web", &record(1)).unwrap_err();
        assert!(error.to_string().starts_with("cannot remember"), "{error}");
    }
}
