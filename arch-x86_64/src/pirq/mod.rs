//! Numbers of device interrupts (`physdev.h`), for a PV domain that owns the devices.
//!
//! A PV domain has no interrupt controller: it asks for a number for a line of the machine's IOAPICs or for a message of a PCI
//! function, and binds an event channel to the number. A line has the number of its global system interrupt unless the domain wants
//! another; messages get the highest free ones. A line that signals by level stays masked from when it is taken until the domain
//! says that it has handled it. Everything here is a value under its owner's lock, which says what is to be done to the machine.

#[cfg(test)]
mod tests;

use alloc::{vec, vec::Vec};

use xenolith_core::Errno;

use crate::pci::Bdf;

/// How a line signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// As long as it is up, not at its change.
    pub level: bool,
    /// Low is up.
    pub active_low: bool,
}

impl Line {
    /// As the lines of the old bus signal.
    pub const OLD: Self = Self {
        level: false,
        active_low: false,
    };
    /// As those of PCI do.
    pub const PCI: Self = Self {
        level: true,
        active_low: true,
    };
}

/// What a number stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A line.
    Line(u32),
    /// The message of a function: that of MSI, or an entry of its MSI-X table.
    Message(Bdf, Option<u16>),
}

/// Which kind of number is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// For a line.
    Line,
    /// For a message.
    Message,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Entry {
    source: Option<Source>,
    /// Handed out, for something that is named later.
    reserved: bool,
    /// A port is bound. The number is nobody else's until that is closed.
    bound: bool,
    /// Other domains may share it, says the domain.
    shared: bool,
    /// The line was taken, and is masked.
    taken: bool,
}

impl Entry {
    const FREE: Self = Self {
        source: None,
        reserved: false,
        bound: false,
        shared: false,
        taken: false,
    };
}

/// What became of a number whose source went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unmapped {
    /// What it stood for.
    pub source: Source,
    /// A port was bound.
    pub bound: bool,
}

/// Lines of the old bus.
const OLD_LINES: u32 = 16;

/// The numbers of a domain.
#[derive(Debug)]
pub struct Table {
    entries: Vec<Entry>,
    lines: Vec<Line>,
    /// Lines that were set up: each is but once.
    set_up: Vec<bool>,
}

impl Table {
    /// No number stands for anything. `count`: numbers that there may be; `lines`: those that the machine has; `special`: lines
    /// that signal otherwise than their kind does.
    pub fn new(count: u32, lines: u32, special: impl Iterator<Item = (u32, Line)>) -> Self {
        let lines = lines.min(count);
        let usual = |line: u32| match line < OLD_LINES {
            true => Line::OLD,
            false => Line::PCI,
        };
        let mut table = Self {
            entries: vec![Entry::FREE; count as usize],
            lines: (0..lines).map(usual).collect(),
            set_up: vec![false; lines as usize],
        };
        for (line, how) in special {
            if let Some(place) = table.lines.get_mut(line as usize) {
                *place = how;
            }
        }
        table
    }

    fn lines(&self) -> u32 {
        self.lines.len() as u32
    }

    fn entry(&mut self, number: u32) -> Result<&mut Entry, Errno> {
        self.entries.get_mut(number as usize).ok_or(Errno::EINVAL)
    }

    fn numbers(&self) -> impl DoubleEndedIterator<Item = (u32, &Entry)> {
        (0..self.entries.len() as u32).zip(&self.entries)
    }

    /// The number of something.
    #[must_use]
    pub fn number_of(&self, source: Source) -> Option<u32> {
        // A line mostly has its own number.
        if let Source::Line(line) = source
            && self.entries.get(line as usize).map(|entry| entry.source) == Some(Some(source))
        {
            return Some(line);
        }
        let mut all = self.numbers();
        all.find_map(|(number, entry)| (entry.source == Some(source)).then_some(number))
    }

    /// How a line signals. `EINVAL` when there is none.
    pub fn line(&self, line: u32) -> Result<Line, Errno> {
        self.lines.get(line as usize).copied().ok_or(Errno::EINVAL)
    }

    /// Says how a line signals. `EEXIST` while a port is bound to it: then it stays as it is.
    pub fn set_line(&mut self, line: u32, how: Line) -> Result<(), Errno> {
        let number = self.number_of(Source::Line(line));
        let bound = number.is_some_and(|number| self.entry(number).is_ok_and(|e| e.bound));
        let place = self.lines.get_mut(line as usize).ok_or(Errno::EINVAL)?;
        if bound {
            return Err(Errno::EEXIST);
        }
        *place = how;
        Ok(())
    }

    /// The same, once for each line: `EEXIST` for one that was set up so before.
    pub fn set_up_line(&mut self, line: u32, how: Line) -> Result<(), Errno> {
        let was = self.set_up.get(line as usize).ok_or(Errno::EINVAL)?;
        if *was {
            return Err(Errno::EEXIST);
        }
        self.set_line(line, how)?;
        if let Some(place) = self.set_up.get_mut(line as usize) {
            *place = true;
        }
        Ok(())
    }

    fn find_free(&self, kind: Kind) -> Option<u32> {
        let lines = self.lines();
        let mut free = self.numbers().filter(|(_, entry)| **entry == Entry::FREE);
        let found = match kind {
            Kind::Line => free.find(|(number, _)| (OLD_LINES..lines).contains(number)),
            Kind::Message => free.rfind(|(number, _)| *number >= lines),
        };
        found.map(|(number, _)| number)
    }

    /// Hands a number out. `ENOSPC` when none is left.
    pub fn reserve(&mut self, kind: Kind) -> Result<u32, Errno> {
        let number = self.find_free(kind).ok_or(Errno::ENOSPC)?;
        self.entry(number)?.reserved = true;
        Ok(number)
    }

    /// Makes a number stand for a line: the wanted one, or any. A line that has a number keeps it, and so does a number that stands
    /// for another line: nothing changes then, and who asked is not told.
    pub fn map_line(&mut self, line: u32, wanted: Option<u32>) -> Result<u32, Errno> {
        self.line(line)?;
        let source = Source::Line(line);
        let is_of_line = |number: &u32| {
            let entry = self.entries.get(*number as usize);
            entry.is_some_and(|entry| matches!(entry.source, Some(Source::Line(_))))
        };
        match (self.number_of(source), wanted) {
            (Some(number), Some(wanted)) if number != wanted => Err(Errno::EEXIST),
            (Some(number), _) => Ok(number),
            (None, wanted) => match wanted.filter(is_of_line) {
                Some(number) => Ok(number),
                None => self.map(source, Kind::Line, wanted),
            },
        }
    }

    /// Makes a number stand for a message. `EEXIST`: it has one.
    pub fn map_message(
        &mut self,
        function: Bdf,
        entry: Option<u16>,
        wanted: Option<u32>,
    ) -> Result<u32, Errno> {
        let source = Source::Message(function, entry);
        match self.number_of(source) {
            Some(_) => Err(Errno::EEXIST),
            None => self.map(source, Kind::Message, wanted),
        }
    }

    fn map(&mut self, source: Source, kind: Kind, wanted: Option<u32>) -> Result<u32, Errno> {
        let number = match wanted {
            Some(number) => number,
            None => self.find_free(kind).ok_or(Errno::ENOSPC)?,
        };
        let entry = self.entry(number)?;
        if entry.source.is_some() || entry.bound {
            return Err(Errno::EEXIST);
        }
        *entry = Entry {
            source: Some(source),
            ..Entry::FREE
        };
        Ok(number)
    }

    /// A number stands for nothing any more. `EINVAL` when it did not.
    pub fn unmap(&mut self, number: u32) -> Result<Unmapped, Errno> {
        let entry = self.entry(number)?;
        let source = entry.source.ok_or(Errno::EINVAL)?;
        let bound = entry.bound;
        *entry = Entry {
            bound,
            ..Entry::FREE
        };
        Ok(Unmapped { source, bound })
    }

    /// A port is bound to a number: what may come now. `EINVAL` for a number that stands for nothing, `EBUSY` when a port that
    /// was bound before is not closed.
    pub fn bind(&mut self, number: u32, shared: bool) -> Result<Source, Errno> {
        let entry = self.entry(number)?;
        let source = entry.source.ok_or(Errno::EINVAL)?;
        if entry.bound {
            return Err(Errno::EBUSY);
        }
        entry.bound = true;
        entry.shared = shared;
        entry.taken = false;
        Ok(source)
    }

    /// The port is closed: what comes no more.
    pub fn close(&mut self, number: u32) -> Option<Source> {
        let entry = self.entry(number).ok()?;
        entry.bound = false;
        entry.shared = false;
        entry.taken = false;
        entry.source
    }

    /// A line interrupted: the number to tell, if a port is bound.
    pub fn came(&mut self, line: u32) -> Option<u32> {
        let level = self.line(line).is_ok_and(|how| how.level);
        let number = self.number_of(Source::Line(line))?;
        let entry = self.entry(number).ok()?;
        if !entry.bound {
            return None;
        }
        entry.taken |= level;
        Some(number)
    }

    /// The domain has handled an interrupt: the line that may come again. `EINVAL` for a number that stands for nothing.
    pub fn ended(&mut self, number: u32) -> Result<Option<u32>, Errno> {
        let entry = self.entry(number)?;
        let source = entry.source.ok_or(Errno::EINVAL)?;
        let taken = core::mem::take(&mut entry.taken);
        Ok(match source {
            Source::Line(line) if taken => Some(line),
            _ => None,
        })
    }

    /// Whether the domain must say when it has handled an interrupt.
    #[must_use]
    pub fn needs_end(&self, number: u32) -> bool {
        let entry = self.entries.get(number as usize);
        entry.is_some_and(|entry| {
            let level = match entry.source {
                Some(Source::Line(line)) => self.line(line).is_ok_and(|how| how.level),
                _ => false,
            };
            entry.bound && (level || entry.shared)
        })
    }

    /// Whether there is such a number, whatever it stands for.
    #[must_use]
    pub fn has(&self, number: u32) -> bool {
        (number as usize) < self.entries.len()
    }

    /// The numbers to which a port is bound.
    pub fn bound(&self) -> impl Iterator<Item = u32> + '_ {
        let bound = self.numbers().filter(|(_, entry)| entry.bound);
        bound.map(|(number, _)| number)
    }
}
