// SPDX-License-Identifier: GPL-2.0

//! That tools/multikernel/syzkaller/ says the same as include/uapi/linux/multikernel.h: constants,
//! which ioctls there are, and how large each structure is.

#![allow(missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn header() -> String {
    read("../../../include/uapi/linux/multikernel.h")
}

/// The description without its comments.
fn description() -> String {
    let text = read("../syzkaller/dev_multikernel.txt");
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| format!("{line}\n"))
        .collect()
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// The header's constants: `#define`s, enumerators, ioctls.
fn constants() -> BTreeMap<String, u64> {
    let text = header().replace("\\\n", " ");
    let mut all = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .filter(|word| !word.is_empty())
            .collect();
        match words[..] {
            ["define", name, value, ..] if number(value).is_some() => {
                all.insert(name.to_owned(), number(value).unwrap());
            }
            [name, value] if name.starts_with("MULTIKERNEL_CMD_") => {
                let value = number(value).unwrap_or_else(|| all[value]);
                all.insert(name.to_owned(), value);
            }
            ["define", name, "_IO", kind, command] => {
                let value = all[kind] << 8 | all[command];
                all.insert(name.to_owned(), value);
            }
            _ => {}
        }
    }
    // include/uapi/linux/kexec.h and what the description makes of it.
    let arch = multikernel_sys::KEXEC_ARCH_X86_64;
    all.insert("KEXEC_ARCH_X86_64".to_owned(), arch);
    for id in 1..=2 {
        let flags = arch | all["KEXEC_MULTIKERNEL"] | id << all["KEXEC_MULTIKERNEL_ID_SHIFT"];
        all.insert(format!("KEXEC_MULTIKERNEL_{id}"), flags);
    }
    all
}

/// Words in capitals that begin with one of these.
fn names_in(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_uppercase() && !c.is_ascii_digit() && c != '_')
        .filter(|word| word.starts_with("MULTIKERNEL_") || word.starts_with("KEXEC_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn constants_agree_with_the_header() {
    let header = constants();
    let mut listed = BTreeSet::new();
    for line in read("../syzkaller/dev_multikernel.txt.const").lines() {
        let Some((name, value)) = line.split_once(" = ") else {
            continue;
        };
        if name.starts_with("MULTIKERNEL_") || name.starts_with("KEXEC_") {
            assert_eq!(Some(&value.parse().unwrap()), header.get(name), "{name}");
            listed.insert(name.to_owned());
        }
    }
    assert_eq!(listed, names_in(&description()));
}

#[test]
fn every_ioctl_flag_and_state_is_described() {
    let described = names_in(&description());
    for name in constants().keys() {
        let internal = name.starts_with("MULTIKERNEL_CMD_")
            || name.starts_with("MULTIKERNEL_HOST_")
            || name.ends_with("_MAX")
            || name.ends_with("_MIN")
            || name == "MULTIKERNEL_IOCTL_TYPE";
        assert!(
            internal || described.contains(name) || name.starts_with("KEXEC_"),
            "{name} is not in dev_multikernel.txt"
        );
    }
}

/// Bytes of a field of this type.
fn size_of_type(kind: &str, constants: &BTreeMap<String, u64>) -> u64 {
    let kind = kind.trim();
    let (name, options) = match kind.split_once('[') {
        Some((name, options)) => (name, options.trim_end_matches(']')),
        None => (kind, ""),
    };
    let last = options.rsplit(',').next().unwrap_or("").trim();
    let count = || number(last).unwrap_or_else(|| constants[last]);
    match name {
        "int8" => 1,
        "int32" | "bool32" => 4,
        "int64" | "ptr64" | "multikernel_base" => 8,
        "const" | "flags" | "len" | "bytesize" => size_of_type(last, constants),
        "string" => count(),
        "array" => {
            let element = options
                .rsplit_once(',')
                .map_or(options, |(element, _)| element);
            size_of_type(element, constants) * count()
        }
        "multikernel_id"
        | "fd_multikernel_instance"
        | "fd_multikernel_events"
        | "fd_multikernel_port"
        | "fd_multikernel_arena"
        | "fd_multikernel_session"
        | "fd" => 4,
        other => panic!("a type that is not known: {other}"),
    }
}

#[test]
fn structures_are_as_large_as_in_the_header() {
    let constants = constants();
    let text = description();
    let mut sizes = BTreeMap::new();
    let mut current: Option<(String, u64)> = None;
    for line in text.lines() {
        if let Some(name) = line.strip_suffix(" {") {
            let name = name.trim_start_matches("type ");
            let name = name.split('[').next().unwrap_or(name);
            current = Some((name.to_owned(), 0));
        } else if line == "}" {
            sizes.extend(current.take());
        } else if let Some((_, size)) = &mut current {
            let kind = line
                .trim()
                .split_once('\t')
                .expect("a field and its type")
                .1;
            let kind = kind.replace("(out)", "");
            *size += size_of_type(&kind, &constants);
        }
    }
    macro_rules! check {
        ($($name:ident)*) => {
            $(assert_eq!(
                sizes.remove(stringify!($name)),
                Some(size_of::<multikernel_sys::$name>() as u64),
                stringify!($name)
            );)*
        };
    }
    check! {
        multikernel_cpu multikernel_range multikernel_event
        multikernel_ioctl_host_info multikernel_ioctl_pool multikernel_ioctl_list
        multikernel_ioctl_create multikernel_ioctl_open multikernel_ioctl_events
        multikernel_ioctl_get_info multikernel_ioctl_start multikernel_ioctl_stop
        multikernel_ioctl_simple multikernel_ioctl_read_memory multikernel_ioctl_call
        multikernel_ioctl_open_port multikernel_ioctl_connect multikernel_link
        multikernel_ioctl_add_cpus multikernel_ioctl_exchange_names
        multikernel_ioctl_map_port multikernel_ioctl_link_stats
        multikernel_link_lane multikernel_link_cpu
        multikernel_arena multikernel_arena_grant
        multikernel_ioctl_arena_create multikernel_ioctl_arena_open
        multikernel_ioctl_arena_remove multikernel_ioctl_arena_grant
        multikernel_ioctl_arena_resize
        multikernel_session multikernel_session_entry multikernel_ioctl_session
        multikernel_ioctl_session_entry multikernel_ioctl_session_offer
        multikernel_ioctl_session_step
    }
    assert_eq!(sizes.remove("multikernel_kexec_segment"), Some(32));
    assert!(sizes.is_empty(), "{sizes:?}");
    // And none is missing.
    for line in header().lines() {
        if let Some(name) = line
            .strip_prefix("struct ")
            .and_then(|s| s.strip_suffix(" {"))
        {
            assert!(
                text.contains(name),
                "struct {name} is not in dev_multikernel.txt"
            );
        }
    }
}
