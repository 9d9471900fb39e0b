//! What hypervisor memory an idle domain with one vCPU costs, its second-level tables aside.
//!
//! The same machine runs with one and with more domains that sleep, each with an emulated UART, an event channel and a
//! grant table in use. A debug key tells what is free; what one domain more takes away, less its own memory and its
//! tables, is the figure. So everything counts that the hypervisor allocates for a domain, whatever it calls it.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::boards::Board;
use crate::console::{Console, Echo};
use crate::domains::{self, Domain};
use crate::emulator::{Emulator, Terminal};
use crate::guest::{self, On};
use crate::verbs::bench::table::{Goal, Row};
use crate::verbs::build;

/// The figure's name.
pub(crate) const NAME: &str = "idle_domain_memory";

const GUEST: &str = "guest-neighbour";
const FEW: usize = 1;
const MANY: usize = 9;
const LIMIT: Duration = Duration::from_secs(120);
const DOMAIN_MIB: u64 = 32;
const PAGE: i64 = 4096;
/// Xen sets memory aside for the tables of each domain; the device tree says how much (`xen,domain-p2m-mem-mb`).
const XEN_TABLES_MIB: u64 = 2;

/// Measures it.
pub(crate) fn row(board: &'static Board, most: f64, reference: bool) -> Result<Row> {
    let per_domain = |on: On| {
        if reference && on == On::Xenolith {
            return None;
        }
        let taken = |count| taken(board, on, count);
        match taken(FEW).and_then(|few| Ok((few, taken(MANY)?))) {
            Ok((few, many)) => Some((many - few) / (MANY - FEW) as i64),
            Err(error) => {
                eprintln!("not measured: {error:#}");
                None
            }
        }
    };
    let goal = Some(Goal::AtMost(most));
    Ok(Row::new(NAME, board.arch, "domU", "bytes", goal)
        .measured(per_domain(On::Xenolith), per_domain(On::Xen)))
}

/// Bytes that are taken while so many domains sleep, without what is the domains' own and without their tables, from
/// an arbitrary zero.
fn taken(board: &'static Board, on: On, count: usize) -> Result<i64> {
    let guests = build::guests(board.arch)?;
    let guest = guests.iter().find(|guest| guest.name == GUEST);
    let guest = guest.with_context(|| format!("package xenolith-guests has no program {GUEST}"))?;
    let name = format!("{NAME}-{}-{count}", on.name());
    let run = guest::Run {
        variant: "",
        board,
        cpus: 1,
        icount: false,
        runs_in: Emulator::Qemu,
        emulator: None,
        // Without a word for dom0's kernel, Xen takes its own for the kernel's.
        words: "seconds=0",
        cpu: None,
        xen_words: "guest_loglvl=all",
        beside: &[],
        limit: LIMIT,
    };
    let mut machine = guest::machine(&guest.bin, on, &run)?;
    let domain = Domain {
        kernel: guest.bin.clone(),
        words: String::new(),
        cpus: 1,
        memory: DOMAIN_MIB,
        tables: Some(XEN_TABLES_MIB),
    };
    domains::add(&mut machine, &vec![domain; count], &name)?;
    let mut qemu = machine.command(Terminal::Pipes, &name)?;
    let mut console = Console::start(&mut qemu, &name, LIMIT, Echo::Log)?;
    // The domains and dom0, which runs the same guest.
    for _ in 0..=count {
        console.wait_for("[guest] neighbour port")?;
    }
    console.keys_to_hypervisor(count)?;
    match on {
        On::Xenolith => {
            console.send("m")?;
            console.wait_for(&format!("d{count}: "))?;
            console.wait_for("tables")?;
            xenolith(console.text()).context("key m said something else than expected")
        }
        On::Xen => {
            console.send("m")?;
            console.wait_for("Dom heap: ")?;
            console.wait_for("\n")?;
            let own = (DOMAIN_MIB + XEN_TABLES_MIB) << 20;
            let free = xen(console.text()).context("key m said something else than expected")?;
            Ok(-free - own as i64 * count as i64)
        }
    }
}

/// Free frames, the free part of the heap, and each domain's frames, as Xenolith's key `m` tells them.
fn xenolith(text: &str) -> Option<i64> {
    let numbers = |line: &str| -> Vec<i64> {
        line.split(|c: char| !c.is_ascii_digit())
            .filter_map(|word| word.parse().ok())
            .collect()
    };
    let (_, said) = text.rsplit_once("key m:")?;
    let lines: Vec<&str> = said
        .lines()
        .filter_map(|line| line.strip_prefix("(XEN) "))
        .collect();
    let first = |start: &str| {
        let line = lines.iter().find_map(|line| line.strip_prefix(start))?;
        Some(numbers(line))
    };
    let free = *first("free: ")?.first()?;
    let heap = *first("heap: ")?.get(1)?;
    let mut taken = -free * PAGE - heap;
    for line in lines.iter().filter(|line| line.ends_with("tables")) {
        let [_, own, _, tables] = numbers(line)[..] else {
            return None;
        };
        taken -= (own + tables) * PAGE;
    }
    Some(taken)
}

/// Free bytes, as Xen's key `m` tells them.
fn xen(text: &str) -> Option<i64> {
    let (_, said) = text.rsplit_once("Physical memory information:")?;
    let kib = |what: &str| -> Option<i64> {
        let (_, rest) = said.split_once(what)?;
        rest.split_once("kB")?.0.trim().parse().ok()
    };
    Some((kib("Xen heap: ")? + kib("Dom heap: ")?) << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_neither_free_nor_a_domains_own_nor_a_table_is_taken() {
        let said = |free: i64, own: i64| {
            format!(
                "(XEN) key m: memory\n(XEN) free: {free} frames, 1 MiB\n(XEN) heap: 5000 bytes used, 1000 free\n\
                 (XEN) d0: 10 frames of its own, 7 of the hypervisor's, 5 of them tables\n\
                 (XEN) d1: {own} frames of its own, 7 of the hypervisor's, 5 of them tables\n"
            )
        };
        let before = xenolith(&said(100, 20)).unwrap();
        assert_eq!(xenolith(&said(90, 27)), Some(before + 3 * PAGE));
        assert_eq!(xenolith("nothing"), None);
    }

    #[test]
    fn xens_free_memory_is_the_sum_of_its_heaps() {
        let said = "(XEN) Physical memory information:\n(XEN)     Xen heap: 4kB free\n(XEN) heap[15]: 64512kB free\n\
                    (XEN)     Dom heap: 16kB free\n";
        assert_eq!(xen(said), Some(20 << 10));
    }
}
