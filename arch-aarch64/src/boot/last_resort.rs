//! A console and a way to power off for a machine whose device tree cannot be read: there is one line to say.
//!
//! The image carries a list of boards by something that can be asked for safely: a part of Arm's that stands at a certain
//! address and names itself in its identification registers (PrimeCell, DDI 0183 3.3 and IHI 0048 4.3.16). Only where it
//! answers is the UART beside it used. Nothing of this happens on a machine that has a device tree.

use xenolith_drivers::UartKind;
use xenolith_hal::{HostPhys, PAGE_SIZE};

use crate::{console, cpu::probe, mm::hyp, smccc};

/// A board's UART, and how the board is known.
#[derive(Clone, Copy, Debug)]
pub struct KnownUart {
    /// Where the board has a part of Arm's; a multiple of 4 KiB.
    pub part_at: u64,
    /// The number of that part: 12 bits of its identification registers.
    pub part: u16,
    /// The UART's kind.
    pub kind: UartKind,
    /// Where its registers are.
    pub uart_at: u64,
}

/// Names the boards that the image knows without a device tree, a list of [`KnownUart`]; once in each image.
#[macro_export]
macro_rules! known_uarts {
    ($list:expr) => {
        #[unsafe(no_mangle)]
        static XENOLITH_KNOWN_UARTS: &[$crate::boot::KnownUart] = &$list;
    };
}

unsafe extern "Rust" {
    /// Made by [`known_uarts`].
    static XENOLITH_KNOWN_UARTS: &'static [KnownUart];
}

const REGISTERS: u64 = 0x1000;
const FIRST_IDENTIFICATION: usize = 0xfe0;
/// What the last four identification registers of each of Arm's parts hold.
const CELL: [u8; 4] = [0x0d, 0xf0, 0x05, 0xb1];

/// Finds a console and the firmware. No other CPU runs, and exceptions are masked.
pub(super) fn prepare() {
    // SAFETY: `known_uarts` gives the static this type; an image without it does not link.
    let known = unsafe { XENOLITH_KNOWN_UARTS };
    let found = known
        .iter()
        .find(|board| part_at(board.part_at) == Some(board.part));
    if let Some(board) = found {
        console::init(board.kind, HostPhys(board.uart_at), REGISTERS);
    }
    smccc::find();
}

/// The number of the part at an address, if one answers.
fn part_at(at: u64) -> Option<u16> {
    let registers = hyp::map_device(HostPhys(at), REGISTERS).ok()?;
    let mut bytes = [0; 8];
    for (index, byte) in bytes.iter_mut().enumerate() {
        // SAFETY: the page was just mapped as a device; identification registers have no effects, and where something
        // else stands nobody uses it: start-up ends here.
        *byte =
            unsafe { probe::read(registers.add(FIRST_IDENTIFICATION + 4 * index).cast()) }? as u8;
    }
    let [low, high, _, _, cell @ ..] = bytes;
    (cell == CELL).then(|| u16::from(high & 0xf) << 8 | u16::from(low))
}

/// Whether every page of a range that is mapped at `va` can be read.
pub(super) fn readable(va: u64, len: u64) -> bool {
    let first = va & !3;
    let next = (va & !(PAGE_SIZE as u64 - 1)) + PAGE_SIZE as u64;
    let pages = (next..va + len).step_by(PAGE_SIZE);
    core::iter::once(first).chain(pages).all(|at| {
        // SAFETY: the caller mapped the range; it is read as memory, and start-up is the only user of it.
        unsafe { probe::read(at as *const u32) }.is_some()
    })
}
