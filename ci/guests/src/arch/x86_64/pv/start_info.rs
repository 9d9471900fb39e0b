//! What the loader left: `struct start_info` of `public/xen.h`.

use core::sync::atomic::{AtomicU64, Ordering};

#[unsafe(no_mangle)]
static GUEST_START_INFO: AtomicU64 = AtomicU64::new(0);

/// `start_info` without its last fields.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct StartInfo {
    /// "xen-VERSION-PLATFORM".
    pub magic: [u8; 32],
    /// Pages of the domain.
    pub nr_pages: u64,
    /// Machine address of the shared-info page.
    pub shared_info: u64,
    /// SIF_ bits.
    pub flags: u32,
    pad: u32,
    /// Machine frame of XenStore's page.
    pub store_mfn: u64,
    /// Its event channel.
    pub store_evtchn: u32,
    pad2: u32,
    /// Machine frame of the console's page (no dom0).
    pub console_mfn: u64,
    /// Its event channel.
    pub console_evtchn: u32,
    pad3: u32,
    /// Virtual address of the root table.
    pub pt_base: u64,
    /// Frames of the first page tables.
    pub nr_pt_frames: u64,
    /// Virtual address of the list of machine frames.
    pub mfn_list: u64,
    /// Virtual address of the module.
    pub mod_start: u64,
    /// Its length.
    pub mod_len: u64,
}

/// `SIF_INITDOMAIN`.
pub const IS_DOM0: u32 = 2;
const COMMAND_LINE: u64 = 128;
const COMMAND_LINE_BYTES: usize = 1024;

/// Virtual address of the start info.
pub fn address() -> u64 {
    GUEST_START_INFO.load(Ordering::Relaxed)
}

/// The start info.
pub fn start_info() -> StartInfo {
    // SAFETY: the entry code stored the address that the loader gave, of a mapped page with this layout.
    unsafe { (address() as *const StartInfo).read() }
}

/// The command line.
pub fn command_line() -> &'static str {
    let start = (address() + COMMAND_LINE) as *const u8;
    // SAFETY: a field of the mapped page, which nothing writes.
    let field = unsafe { core::slice::from_raw_parts(start, COMMAND_LINE_BYTES) };
    let end = field.iter().position(|byte| *byte == 0);
    core::str::from_utf8(&field[..end.unwrap_or(0)]).unwrap_or("")
}
