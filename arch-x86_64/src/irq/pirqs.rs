//! The numbers of a PV domain's device interrupts, with the machine's lines and messages behind them ([`crate::pirq`]).
//!
//! Two locks: `changes` is held while a number comes or goes, with the configuration of devices inside; the table's for each
//! look at it, with the IOAPICs' inside.

use core::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

use xenolith_core::{DomainRef, Errno, Hypervisor, event::PIRQS};
use xenolith_hal::{
    AtomicOp, Gfn, Hal, Mfn,
    sync::{Mutex, Rank},
};

use super::{bind, handled, mask};
use crate::{
    X86_64,
    guest::pci::Pci,
    ioapic,
    pci::Bdf,
    pirq::{Kind, Line, Source, Table},
};

/// Of one domain.
pub struct Pirqs {
    changes: Mutex<()>,
    table: Mutex<Table>,
    /// The frame in which the domain reads which numbers it must tell of when it has handled them; 0: none.
    end_map: AtomicU64,
    /// Telling of it unmasks the port as well.
    end_unmasks: AtomicBool,
}

impl Pirqs {
    /// No number stands for anything. `special`: lines that signal otherwise than their kind does.
    pub fn new(special: impl Iterator<Item = (u32, Line)>) -> Self {
        let table = Table::new(PIRQS, ioapic::lines(), special);
        Self {
            changes: Mutex::new(Rank::Domain, ()),
            table: Mutex::new(Rank::Interrupts, table),
            end_map: AtomicU64::new(0),
            end_unmasks: AtomicBool::new(false),
        }
    }

    /// A port is bound to a number. `EINVAL` for a number that stands for nothing, `EBUSY` for one that is in use.
    pub fn open(&self, hal: &X86_64, number: u32, share: bool) -> Result<(), Errno> {
        let mut table = self.table.lock();
        if let Source::Line(line) = table.bind(number, share)?
            && !bind(line, table.line(line)?)
        {
            table.close(number);
            return Err(Errno::EBUSY);
        }
        self.show(hal, number, table.needs_end(number));
        Ok(())
    }

    /// The port is closed.
    pub fn close(&self, hal: &X86_64, number: u32) {
        let mut table = self.table.lock();
        if let Some(Source::Line(line)) = table.close(number) {
            mask(line);
        }
        self.show(hal, number, false);
    }

    /// A line interrupted. If it signals by level, it is masked.
    pub fn line_came(&self, hv: &Hypervisor<X86_64>, domain: &DomainRef<X86_64>, line: u32) {
        let number = self.table.lock().came(line);
        if let Some(number) = number {
            hv.send_pirq(domain, number);
        }
    }

    /// The domain has handled an interrupt. `EINVAL` for a number that stands for nothing.
    pub fn ended(
        &self,
        hv: &Hypervisor<X86_64>,
        domain: &DomainRef<X86_64>,
        number: u32,
    ) -> Result<(), Errno> {
        if self.end_unmasks.load(Relaxed) {
            hv.unmask_pirq(domain, number);
        }
        let mut table = self.table.lock();
        if let Some(line) = table.ended(number)? {
            handled(line);
        }
        Ok(())
    }

    /// Whether there is such a number.
    pub fn has(&self, number: u32) -> bool {
        self.table.lock().has(number)
    }

    /// Hands a number out.
    pub fn reserve(&self, kind: Kind) -> Result<u32, Errno> {
        self.table.lock().reserve(kind)
    }

    /// Says how a line signals.
    pub fn set_line(&self, line: u32, how: Line) -> Result<(), Errno> {
        self.table.lock().set_line(line, how)
    }

    /// The same, once for each line.
    pub fn set_up_line(&self, line: u32, how: Line) -> Result<(), Errno> {
        self.table.lock().set_up_line(line, how)
    }

    /// Makes a number stand for a line.
    pub fn map_line(&self, line: u32, wanted: Option<u32>) -> Result<u32, Errno> {
        let _changes = self.changes.lock();
        self.table.lock().map_line(line, wanted)
    }

    /// Makes a number stand for a message, for which the machine has a place from then on.
    pub fn map_message(
        &self,
        hv: &Hypervisor<X86_64>,
        domain: &DomainRef<X86_64>,
        (function, entry): (Bdf, Option<u16>),
        wanted: Option<u32>,
    ) -> Result<u32, Errno> {
        let pci = pci(domain)?;
        let _changes = self.changes.lock();
        let number = self.table.lock().map_message(function, entry, wanted)?;
        let told = pci.number((hv, domain), function, entry, number as u16);
        if let Err(errno) = told {
            let _ = self.table.lock().unmap(number);
            return Err(errno);
        }
        Ok(number)
    }

    /// A number stands for nothing any more. `EINVAL` when it did not.
    pub fn unmap(
        &self,
        hv: &Hypervisor<X86_64>,
        domain: &DomainRef<X86_64>,
        number: u32,
    ) -> Result<(), Errno> {
        let _changes = self.changes.lock();
        let source = {
            let mut table = self.table.lock();
            let gone = table.unmap(number)?;
            if let Source::Line(line) = gone.source
                && gone.bound
            {
                mask(line);
            }
            gone.source
        };
        if let Source::Message(function, entry) = source {
            pci(domain)?.forget_number((hv, domain), function, entry);
        }
        Ok(())
    }

    /// The domain reads in one of its frames which numbers it must tell of. `EBUSY` when it does already, `EINVAL` for a
    /// frame that it has not got for writing.
    pub fn set_end_map(
        &self,
        hv: &Hypervisor<X86_64>,
        domain: &DomainRef<X86_64>,
        frame: Gfn,
        end_unmasks: bool,
    ) -> Result<(), Errno> {
        let frame = hv.pin_own(domain, frame).ok_or(Errno::EINVAL)?;
        let table = self.table.lock();
        let mfn = frame.mfn();
        let set = self.end_map.compare_exchange(0, mfn.0, SeqCst, Relaxed);
        if set.is_err() {
            return Err(Errno::EBUSY);
        }
        frame.keep();
        if end_unmasks {
            self.end_unmasks.store(true, Relaxed);
        }
        for number in table.bound() {
            self.show(&hv.hal, number, table.needs_end(number));
        }
        Ok(())
    }

    /// Says in the domain's frame whether it must tell of a number. The table is locked.
    fn show(&self, hal: &X86_64, number: u32, needs_end: bool) {
        let frame = self.end_map.load(SeqCst);
        if frame == 0 {
            return;
        }
        let (word, bit) = (number / 64, 1u64 << (number % 64));
        let op = match needs_end {
            true => AtomicOp::Or(bit),
            false => AtomicOp::And(!bit),
        };
        // RAM that is held: it is there.
        let _ = hal.atomic64(Mfn(frame), word as usize * 8, op);
    }

    /// The domain ends: nothing is written to its memory any more.
    pub fn release(&self, hv: &Hypervisor<X86_64>) {
        let frame = {
            let _table = self.table.lock();
            self.end_map.swap(0, SeqCst)
        };
        if frame != 0 {
            hv.put_writable(Mfn(frame));
        }
    }
}

fn pci(domain: &DomainRef<X86_64>) -> Result<&Pci, Errno> {
    domain.arch.pci.as_ref().ok_or(Errno::ENODEV)
}
