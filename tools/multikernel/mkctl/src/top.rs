// SPDX-License-Identifier: GPL-2.0

//! `mkctl top`: what links carry, a second.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use multikernel::device::{Host, HostPeer, Lane, LaneEnds, LinkRates, LinkStats};
use multikernel::device::{LaneStats, Peer, PeerState, Rate};
use multikernel::{Error, Result};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::style::Style;
use ratatui::text::{Line, Text};
use ratatui::widgets::Paragraph;
use ratatui::DefaultTerminal;
use serde::Serialize;

use crate::args::TopArgs;
use crate::events;
use crate::signals::Signals;

/// How long a key or a signal waits at most until it is seen.
const RESPONSE: Duration = Duration::from_millis(100);

/// A link, as it was looked at last.
#[derive(Debug, Serialize)]
struct Look {
    /// Who is at the other end.
    name: String,
    stats: LinkStats,
    rates: LinkRates,
}

/// Whose links are looked at.
enum Links {
    Host(HostPeer),
    Instances(Host, Option<String>),
}

impl Links {
    fn open(args: &TopArgs) -> Result<Self> {
        Ok(match args.host {
            true => Self::Host(HostPeer::open()?),
            false => Self::Instances(Host::open()?, args.name.clone()),
        })
    }

    /// The counters of each, with who is at the other end. Instances that are not running, or whose
    /// kernel is not understood, are left out, but if only one was asked for.
    fn read(&self) -> Result<Vec<(String, LinkStats)>> {
        let (host, only) = match self {
            Self::Host(peer) => return Ok(vec![("host".to_owned(), peer.link_stats()?)]),
            Self::Instances(host, only) => (host, only),
        };
        if let Some(name) = only {
            let stats = host.instance(name)?.link_stats()?;
            return Ok(vec![(name.clone(), stats)]);
        }
        let mut all = Vec::new();
        for id in host.instances()? {
            // It may have been removed meanwhile.
            let Some(instance) = host.instance_by_id(id)? else {
                continue;
            };
            let found = instance
                .info()
                .and_then(|info| Ok((info.name, instance.link_stats()?)));
            match found {
                Ok(found) => all.push(found),
                Err(error)
                    if matches!(
                        error.errno(),
                        Some(libc::EALREADY | libc::ESTALE | libc::EPROTONOSUPPORT)
                    ) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// Looks at each, with the rates since the last look.
    fn look(&self, before: &[Look]) -> Result<Vec<Look>> {
        let compare = |(name, stats): (String, LinkStats)| {
            let before = before.iter().find(|before| before.name == name);
            let rates = stats.since(before.map(|before| &before.stats));
            Look { name, stats, rates }
        };
        Ok(self.read()?.into_iter().map(compare).collect())
    }
}

/// A rate in four or five places.
fn short(rate: f64) -> String {
    match rate {
        rate if rate >= 999_950.0 * 1e3 => format!("{:.1}G", rate / 1e9),
        rate if rate >= 999_950.0 => format!("{:.1}M", rate / 1e6),
        rate if rate >= 10_000.0 => format!("{:.1}k", rate / 1e3),
        rate if rate >= 100.0 || rate == 0.0 => format!("{rate:.0}"),
        rate => format!("{rate:.1}"),
    }
}

/// A line, and whether it is a heading.
type Shown = (bool, String);

fn row(what: &str, rate: &Rate, rest: &str) -> Shown {
    let columns = [rate.messages, rate.bytes, rate.doorbells, rate.stalls].map(short);
    let [messages, bytes, doorbells, stalls] = columns;
    let line = format!("  {what:<22} {messages:>8} {bytes:>8} {doorbells:>8} {stalls:>8} {rest}");
    (false, line.trim_end().to_owned())
}

fn lane_row(lane: &LaneStats, rate: &Rate) -> Shown {
    let Lane { receives, ends, .. } = lane.lane;
    let arrow = if receives { "from" } else { "to" };
    let what = match ends {
        LaneEnds::Cpus { from, to } if receives => format!("CPU {to} {arrow} CPU {from}"),
        LaneEnds::Cpus { from, to } => format!("CPU {from} {arrow} CPU {to}"),
        LaneEnds::Common => format!("common {arrow}"),
        LaneEnds::Port { port } => format!("port {port} {arrow}"),
    };
    // Only the sender knows how full a lane is.
    let (used, highest) = match receives {
        true => ("-".to_owned(), "-".to_owned()),
        false => (lane.used.to_string(), lane.highest.to_string()),
    };
    let broken = if lane.broken { " broken" } else { "" };
    let mapped = if lane.mapped { " mapped" } else { "" };
    let rest = format!(
        "{used:>5} {highest:>5} {:>12}{mapped}{broken}",
        lane.messages
    );
    row(&what, rate, &rest)
}

/// All of it as lines.
fn lines(looks: &[Look]) -> Vec<Shown> {
    let mut lines = vec![(
        true,
        format!(
            "  {:<22} {:>8} {:>8} {:>8} {:>8} {:>5} {:>5} {:>12}",
            "LANE", "MSG/S", "BYTES/S", "RINGS/S", "STALLS/S", "USED", "MAX", "MESSAGES"
        ),
    )];
    for Look { name, stats, rates } in looks {
        let state = match stats.state {
            PeerState::Down => "down",
            PeerState::Up => "up",
            PeerState::Gone => "gone",
            PeerState::Unknown => "unknown",
        };
        lines.push((
            true,
            format!(
                "{name}: {state}, start {}; rung {}/s, held {}/s, delayed {}/s; polls {}/s, of use \
                 {}/s",
                stats.epoch,
                short(rates.doorbells),
                short(rates.held),
                short(rates.delayed),
                short(rates.polls),
                short(rates.polled)
            ),
        ));
        lines.push(row("sent", &rates.sent, ""));
        lines.push(row("received", &rates.received, ""));
        for (lane, rate) in stats.lanes.iter().zip(&rates.lanes) {
            lines.push(lane_row(lane, rate));
        }
    }
    lines
}

fn print(looks: &[Look], json: bool) -> Result<()> {
    if json {
        let text = serde_json::to_string(looks)
            .map_err(|error| Error::new("cannot print JSON", io::Error::from(error)))?;
        say!("{text}");
        return Ok(());
    }
    for (_, line) in lines(looks) {
        say!("{line}");
    }
    say!();
    Ok(())
}

/// One table below the other.
fn plain(links: &Links, args: &TopArgs, signals: &Signals) -> Result<()> {
    let mut looks = links.look(&[])?;
    let mut left = args.count;
    while left != Some(0) {
        events::wait([signals.as_fd()], Some(Instant::now() + args.interval.0))?;
        if signals.came() {
            break;
        }
        looks = links.look(&looks)?;
        print(&looks, args.json.json)?;
        left = left.map(|left| left - 1);
    }
    Ok(())
}

/// What a key asks for.
#[derive(Debug, Eq, PartialEq)]
enum Wish {
    End,
    Up,
    Down,
    Nothing,
}

fn wish(event: &Event) -> Wish {
    let Event::Key(KeyEvent {
        code,
        modifiers,
        kind: KeyEventKind::Press | KeyEventKind::Repeat,
        ..
    }) = event
    else {
        return Wish::Nothing;
    };
    match code {
        KeyCode::Char('q') | KeyCode::Esc => Wish::End,
        KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => Wish::End,
        KeyCode::Up | KeyCode::Char('k') => Wish::Up,
        KeyCode::Down | KeyCode::Char('j') => Wish::Down,
        _ => Wish::Nothing,
    }
}

/// The table as the terminal shows it, from a line on.
fn page(looks: &[Look], from: u16) -> Paragraph<'static> {
    let style = |heading| match heading {
        true => Style::new().bold(),
        false => Style::new(),
    };
    let lines = lines(looks)
        .into_iter()
        .map(|(heading, line)| Line::styled(line, style(heading)));
    Paragraph::new(Text::from_iter(lines)).scroll((from, 0))
}

/// One table in the place of the other, until a key or a signal ends it.
fn full_screen(
    terminal: &mut DefaultTerminal,
    links: &Links,
    args: &TopArgs,
    signals: &Signals,
) -> Result<()> {
    let failed = |error| Error::new("cannot draw on the terminal", error);
    let mut looks = links.look(&[])?;
    let mut left = args.count;
    let (mut from, mut due) = (0u16, Instant::now() + args.interval.0);
    loop {
        let draw = terminal.draw(|frame| frame.render_widget(page(&looks, from), frame.area()));
        draw.map_err(failed)?;
        let wait = due.saturating_duration_since(Instant::now()).min(RESPONSE);
        if event::poll(wait).map_err(failed)? {
            let last = u16::try_from(lines(&looks).len().saturating_sub(1)).unwrap_or(u16::MAX);
            match wish(&event::read().map_err(failed)?) {
                Wish::End => return Ok(()),
                Wish::Up => from = from.saturating_sub(1),
                Wish::Down => from = from.saturating_add(1).min(last),
                Wish::Nothing => {}
            }
        }
        if signals.came() {
            return Ok(());
        }
        if Instant::now() >= due {
            if left == Some(0) {
                return Ok(());
            }
            looks = links.look(&looks)?;
            left = left.map(|left| left - 1);
            due = Instant::now() + args.interval.0.max(RESPONSE);
        }
    }
}

pub fn top(args: &TopArgs) -> Result<()> {
    let links = Links::open(args)?;
    let signals = Signals::hold()?;
    if args.json.json || !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return plain(&links, args, &signals);
    }
    let mut terminal =
        ratatui::try_init().map_err(|error| Error::new("cannot use the terminal", error))?;
    let result = full_screen(&mut terminal, &links, args, &signals);
    ratatui::restore();
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use multikernel::device::CpuStats;
    use ratatui::backend::TestBackend;
    use ratatui::Terminal;

    fn lane(receives: bool, ends: LaneEnds, messages: u64) -> LaneStats {
        LaneStats {
            lane: Lane {
                number: 0,
                receives,
                ends,
            },
            broken: receives && ends == LaneEnds::Common,
            mapped: matches!(ends, LaneEnds::Port { .. }),
            messages,
            bytes: messages * 56,
            stalls: messages / 100,
            doorbells: messages / 2,
            used: 3,
            highest: 48,
        }
    }

    fn look(seconds: u64, messages: u64, before: Option<&Look>) -> Look {
        let stats = LinkStats {
            peer: 1,
            epoch: 4,
            state: PeerState::Up,
            lane_slots: 64,
            time_ns: seconds * 1_000_000_000,
            undeliverable: 0,
            broken: 0,
            lanes: vec![
                lane(false, LaneEnds::Cpus { from: 0, to: 1 }, messages),
                lane(true, LaneEnds::Cpus { from: 1, to: 0 }, messages),
                lane(false, LaneEnds::Port { port: 65536 }, 0),
                lane(true, LaneEnds::Common, 7),
            ],
            cpus: vec![CpuStats {
                cpu: 0,
                peer: false,
                doorbells: messages,
                idle: 0,
                held: messages / 4,
                delayed: 0,
                polls: 0,
                polled: 0,
            }],
        };
        let rates = stats.since(before.map(|before| &before.stats));
        Look {
            name: "web".into(),
            stats,
            rates,
        }
    }

    const TABLE: [&str; 8] = [
        "  LANE                      MSG/S  BYTES/S  RINGS/S STALLS/S  USED   MAX     MESSAGES",
        "web: up, start 4; rung 15.0k/s, held 3750/s, delayed 0/s; polls 0/s, of use 0/s",
        "  sent                      15.0k   840.0k     7500      150",
        "  received                  15.0k   840.0k     7500      150",
        "  CPU 0 to CPU 1            15.0k   840.0k     7500      150     3    48        31000",
        "  CPU 0 from CPU 1          15.0k   840.0k     7500      150     -     -        31000",
        "  port 65536 to                 0        0        0        0     3    48            0 \
         mapped",
        "  common from                   0        0        0        0     -     -            7 \
         broken",
    ];

    #[test]
    fn a_table() {
        let before = look(10, 1_000, None);
        let looks = [look(12, 31_000, Some(&before))];
        let text: Vec<String> = lines(&looks).into_iter().map(|(_, line)| line).collect();
        assert_eq!(text, TABLE);
    }

    #[test]
    fn rates_are_short() {
        for (rate, text) in [
            (0.0, "0"),
            (0.25, "0.2"),
            (99.9, "99.9"),
            (100.0, "100"),
            (9_999.0, "9999"),
            (12_345.0, "12.3k"),
            (999_949.0, "999.9k"),
            (1_234_567.0, "1.2M"),
            (5e9, "5.0G"),
        ] {
            assert_eq!(short(rate), text);
        }
    }

    #[test]
    fn json_has_counters_and_rates() {
        let before = look(10, 1_000, None);
        let json = serde_json::to_value([look(12, 31_000, Some(&before))]).unwrap();
        assert_eq!(json[0]["name"], "web");
        assert_eq!(json[0]["stats"]["lanes"][0]["messages"], 31_000);
        assert_eq!(json[0]["rates"]["sent"]["messages"], 15_000.0);
        assert_eq!(json[0]["rates"]["lanes"][2]["messages"], 0.0);
    }

    #[test]
    fn the_screen_scrolls() {
        let looks = [look(10, 1_000, None)];
        let first = |from| {
            let mut terminal = Terminal::new(TestBackend::new(40, 3)).unwrap();
            terminal
                .draw(|frame| frame.render_widget(page(&looks, from), frame.area()))
                .unwrap();
            let buffer = terminal.backend().buffer().clone();
            (0..40).map(|x| buffer[(x, 0)].symbol()).collect::<String>()
        };
        assert!(first(0).starts_with("  LANE"), "{}", first(0));
        assert!(first(1).starts_with("web: up"), "{}", first(1));
        assert!(first(4).starts_with("  CPU 0 to CPU 1"), "{}", first(4));
    }

    #[test]
    fn keys() {
        let press = |code, modifiers| Event::Key(KeyEvent::new(code, modifiers));
        let none = KeyModifiers::NONE;
        assert_eq!(wish(&press(KeyCode::Char('q'), none)), Wish::End);
        assert_eq!(
            wish(&press(KeyCode::Char('c'), KeyModifiers::CONTROL)),
            Wish::End
        );
        assert_eq!(wish(&press(KeyCode::Char('c'), none)), Wish::Nothing);
        assert_eq!(wish(&press(KeyCode::Down, none)), Wish::Down);
        assert_eq!(wish(&press(KeyCode::Up, none)), Wish::Up);
        assert_eq!(wish(&Event::FocusLost), Wish::Nothing);
    }
}
