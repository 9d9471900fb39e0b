//! The machine's I/O interrupt controllers (82093AA data sheet): which global system interrupt raises which vector where.
//!
//! All lines are masked until a domain that owns the machine's devices binds them. A level-triggered line is masked from
//! the moment it is taken until the guest says it has handled it, so it does not come again before.

use alloc::vec::Vec;
use core::{
    ops::Range,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use spin::Once;
use tock_registers::{LocalRegisterCopy, interfaces::Writeable};
use xenolith_hal::{
    HostPhys, PAGE_SIZE,
    sync::{Mutex, Rank},
};

use crate::mm::hyp::Hyp;
pub use crate::pirq::Line;

#[allow(missing_docs, reason = "the fields are those of the manual")]
mod fields {
    use tock_registers::register_bitfields;

    register_bitfields! {u64,
        /// A redirection entry.
        pub Redirection [
            VECTOR OFFSET(0) NUMBITS(8) [],
            ACTIVE_LOW OFFSET(13) NUMBITS(1) [],
            LEVEL OFFSET(15) NUMBITS(1) [],
            MASKED OFFSET(16) NUMBITS(1) [],
            DESTINATION OFFSET(56) NUMBITS(8) [],
        ],
    }
}
pub use fields::Redirection;

const VERSION: u32 = 1;
const FIRST_ENTRY: u32 = 0x10;
const SELECT: usize = 0;
const WINDOW: usize = 0x10;

struct Controller {
    address: u64,
    registers: usize,
    lines: Range<u32>,
}

impl Controller {
    fn read(&self, register: u32) -> u32 {
        // SAFETY: the registers are mapped for ever; the lock around all controllers makes select and access one step.
        unsafe {
            ((self.registers + SELECT) as *mut u32).write_volatile(register);
            ((self.registers + WINDOW) as *const u32).read_volatile()
        }
    }

    fn write(&self, register: u32, value: u32) {
        // SAFETY: as above.
        unsafe {
            ((self.registers + SELECT) as *mut u32).write_volatile(register);
            ((self.registers + WINDOW) as *mut u32).write_volatile(value);
        }
    }

    fn set_entry(&self, line: u32, value: u64) {
        let register = FIRST_ENTRY + (line - self.lines.start) * 2;
        // The half with the mask bit last, when it opens the line.
        self.write(register, 1 << 16);
        self.write(register + 1, (value >> 32) as u32);
        self.write(register, value as u32);
    }

    fn set_mask(&self, line: u32, masked: bool) {
        let register = FIRST_ENTRY + (line - self.lines.start) * 2;
        let low = self.read(register) & !(1 << 16);
        self.write(register, low | u32::from(masked) << 16);
    }
}

static LINES: AtomicU32 = AtomicU32::new(0);
static CONTROLLERS: Once<Mutex<Vec<Controller>>> = Once::new();

/// Finds the controllers and masks every line. `places`: physical address of the registers, first line.
pub fn init(places: &[(u64, u32)]) -> Result<(), &'static str> {
    let mut found = Vec::new();
    for (address, first) in places {
        let registers = Hyp::map_device(HostPhys(*address), PAGE_SIZE as u64)
            .map_err(|_| "out of page tables for an IOAPIC")? as usize;
        let mut controller = Controller {
            address: *address,
            registers,
            lines: *first..*first,
        };
        let entries = (controller.read(VERSION) >> 16 & 0xff) + 1;
        controller.lines.end = first.saturating_add(entries);
        for line in controller.lines.clone() {
            controller.set_entry(line, 1 << 16);
        }
        found.push(controller);
    }
    let lines = found.iter().map(|c| c.lines.end).max().unwrap_or(0);
    LINES.store(lines, Relaxed);
    CONTROLLERS.call_once(|| Mutex::new(Rank::Console, found));
    Ok(())
}

/// How many lines all controllers have, holes counted.
pub fn lines() -> u32 {
    LINES.load(Relaxed)
}

fn with_line(line: u32, f: impl FnOnce(&Controller)) {
    if let Some(all) = CONTROLLERS.get() {
        let all = all.lock();
        if let Some(controller) = all.iter().find(|c| c.lines.contains(&line)) {
            f(controller);
        }
    }
}

/// Opens a line: it raises the vector at the CPU with this APIC number.
pub fn open(line: u32, how: Line, vector: u8, apic: u8) {
    let entry = tock_registers::registers::InMemoryRegister::<u64, Redirection::Register>::new(0);
    entry.write(
        Redirection::VECTOR.val(vector.into())
            + Redirection::LEVEL.val(how.level.into())
            + Redirection::ACTIVE_LOW.val(how.active_low.into())
            + Redirection::DESTINATION.val(apic.into()),
    );
    let entry: LocalRegisterCopy<u64, Redirection::Register> =
        LocalRegisterCopy::new(tock_registers::interfaces::Readable::get(&entry));
    with_line(line, |controller| controller.set_entry(line, entry.get()));
}

/// Reads a register of the controller at a physical address; none where there is no controller. One that no controller has is
/// zero, and not looked for.
pub fn read(address: u64, register: u32) -> Option<u32> {
    const ARBITRATION: u32 = 2;
    let all = CONTROLLERS.get()?.lock();
    let controller = all.iter().find(|c| c.address == address)?;
    let register = register & 0xff;
    let entries = FIRST_ENTRY..FIRST_ENTRY + 2 * controller.lines.len() as u32;
    match register <= ARBITRATION || entries.contains(&register) {
        true => Some(controller.read(register)),
        false => Some(0),
    }
}

/// The line that a register of the controller at a physical address sets up, and whether the register is the lower half of its
/// entry. None where there is no such controller or entry.
pub fn line_of(address: u64, register: u32) -> Option<(u32, bool)> {
    let all = CONTROLLERS.get()?.lock();
    let controller = all.iter().find(|c| c.address == address)?;
    let entry = register.checked_sub(FIRST_ENTRY)?;
    let line = controller.lines.start.checked_add(entry / 2)?;
    let is_one = controller.lines.contains(&line);
    is_one.then_some((line, entry.is_multiple_of(2)))
}

/// Whether there is a controller at a physical address.
pub fn is_at(address: u64) -> bool {
    let all = CONTROLLERS.get().map(Mutex::lock);
    all.is_some_and(|all| all.iter().any(|c| c.address == address))
}

/// Masks or unmasks a line that is open.
pub fn set_mask(line: u32, masked: bool) {
    with_line(line, |controller| controller.set_mask(line, masked));
}
