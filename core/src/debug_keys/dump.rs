//! What the debug keys show.

use alloc::vec::Vec;
use core::{fmt, sync::atomic::Ordering::Relaxed};

use xenolith_hal::{Hal, PAGE_SIZE};

use crate::{DomainRef, Hypervisor, VcpuRef};

type Out<'a> = &'a mut dyn fmt::Write;

/// Domains by number. The list is copied, so that no lock is held while text is written.
fn sorted<H: Hal>(hv: &Hypervisor<H>) -> Vec<DomainRef<H>> {
    let mut domains = Vec::new();
    hv.domains.for_each(|domain| {
        if domains.try_reserve(1).is_ok() {
            domains.push(domain.clone());
        }
    });
    domains.sort_unstable_by_key(|domain| domain.id());
    domains
}

const fn mib(frames: u64) -> u64 {
    frames / (1 << 20 >> PAGE_SIZE.trailing_zeros())
}

pub(super) fn domains<H: Hal>(hv: &Hypervisor<H>, out: Out<'_>) -> fmt::Result {
    for domain in sorted(hv) {
        let config = &domain.config;
        let kind = if config.privileged {
            "privileged"
        } else {
            "ordinary"
        };
        let map = if config.direct_map {
            ", direct-mapped"
        } else {
            ""
        };
        writeln!(
            out,
            "{}: {kind}{map}, {} vCPUs, paused {} times",
            domain.id(),
            config.vcpus,
            domain.pause_count.load(Relaxed)
        )?;
        for vcpu in VcpuRef::all(&domain) {
            hv.dump_vcpu(&vcpu, out)?;
        }
    }
    Ok(())
}

pub(super) fn registers<H: Hal>(hv: &Hypervisor<H>, out: Out<'_>) -> fmt::Result {
    for domain in sorted(hv) {
        for vcpu in VcpuRef::all(&domain).filter(|vcpu| hv.vcpu_is_up(vcpu)) {
            writeln!(out, "{} v{}:", domain.id(), vcpu.id.0)?;
            hv.hal.dump_registers(&vcpu.arch, out)?;
        }
    }
    writeln!(out, "end of registers")
}

pub(super) fn run_queues<H: Hal>(hv: &Hypervisor<H>, out: Out<'_>) -> fmt::Result {
    hv.dump_run_queues(out)
}

pub(super) fn memory<H: Hal>(hv: &Hypervisor<H>, out: Out<'_>) -> fmt::Result {
    let free = hv.memory.free_frames();
    writeln!(out, "free: {free} frames, {} MiB", mib(free))?;
    if let Some(heap) = hv.hal.heap_use() {
        writeln!(out, "heap: {} bytes used, {} free", heap.used, heap.free)?;
    }
    for domain in sorted(hv) {
        let memory = &domain.memory;
        writeln!(
            out,
            "{}: {} frames of its own, {} of the hypervisor's, {} of them tables",
            domain.id(),
            memory.owned.load(Relaxed),
            memory.hypervisor.load(Relaxed),
            memory.tables.load(Relaxed)
        )?;
    }
    Ok(())
}

pub(super) fn time<H: Hal>(hv: &Hypervisor<H>, out: Out<'_>) -> fmt::Result {
    let now = hv.hal.now();
    writeln!(
        out,
        "system time {} ns, started at {} s since 1970",
        now.0,
        hv.wallclock().0 / 1_000_000_000
    )?;
    for cpu in hv.sched.online_cpus().iter() {
        match hv.timers.summary(cpu) {
            (count, Some(next)) => writeln!(
                out,
                "CPU {}: {count} timers, next in {} us",
                cpu.0,
                next.since(now).0 / 1000
            )?,
            (count, None) => writeln!(out, "CPU {}: {count} timers", cpu.0)?,
        }
    }
    Ok(())
}

pub(super) fn events<H: Hal>(hv: &Hypervisor<H>, out: Out<'_>) -> fmt::Result {
    for domain in sorted(hv) {
        writeln!(out, "{}:", domain.id())?;
        let mut said = Ok(());
        hv.dump_ports(&domain, |port| {
            said = said.and_then(|()| writeln!(out, "  {port}"))
        });
        said?;
    }
    Ok(())
}

pub(super) fn grants<H: Hal>(hv: &Hypervisor<H>, out: Out<'_>) -> fmt::Result {
    for domain in sorted(hv) {
        let mut said = writeln!(out, "{}:", domain.id());
        hv.dump_grants(&domain, |grant| {
            said = said.and_then(|()| writeln!(out, "  {grant}"))
        });
        hv.dump_mappings(&domain, |mapping| {
            said = said.and_then(|()| writeln!(out, "  {mapping}"));
        });
        said?;
    }
    Ok(())
}
