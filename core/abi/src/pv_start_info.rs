//! What a PV guest finds at its entry.
//!
//! Header: `xen.h` (`start_info`, `dom0_vga_console_info`). The guest gets the struct's virtual address in a register.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub use crate::start_info::StartFlags;

/// Most bytes of a command line, the zero at its end included.
pub const MAX_GUEST_CMDLINE: usize = 1024;

/// What stands in [`StartInfo::magic`], zeroes behind it.
pub const MAGIC: &[u8] = b"xen-3.0-x86_64";

/// Where a guest's console is: its page and port, or for dom0 a struct that tells of the screen.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct StartConsole {
    /// Machine frame of the ring. dom0: offset of [`VgaConsoleInfo`] from the start of [`StartInfo`] in the low half, its
    /// size in the high one.
    pub mfn: u64,
    /// Event channel.
    pub evtchn: u32,
    #[doc(hidden)]
    pub _pad: u32,
}

impl StartConsole {
    /// dom0's form.
    #[must_use]
    pub const fn of_dom0(info_off: u32, info_size: u32) -> Self {
        Self {
            mfn: info_off as u64 | (info_size as u64) << 32,
            evtchn: 0,
            _pad: 0,
        }
    }
}

/// The start-of-day struct (`start_info`).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StartInfo {
    /// [`MAGIC`].
    pub magic: [u8; 32],
    /// Frames of the domain.
    pub nr_pages: u64,
    /// Machine address of the shared info.
    pub shared_info: u64,
    /// What kind of domain this is.
    pub flags: StartFlags,
    #[doc(hidden)]
    pub _pad0: u32,
    /// Machine frame of the store's ring.
    pub store_mfn: u64,
    /// Event channel of the store.
    pub store_evtchn: u32,
    #[doc(hidden)]
    pub _pad1: u32,
    /// The console.
    pub console: StartConsole,
    /// Virtual address of the root of the bootstrap page tables.
    pub pt_base: u64,
    /// Frames of those.
    pub nr_pt_frames: u64,
    /// Virtual address of the list of machine frames.
    pub mfn_list: u64,
    /// Virtual address of the module, or its frame; see [`StartFlags::MOD_START_PFN`].
    pub mod_start: u64,
    /// Bytes of the module.
    pub mod_len: u64,
    /// Zero-ended command line.
    pub cmd_line: [u8; MAX_GUEST_CMDLINE],
    /// Where the list of machine frames lies outside the bootstrap area: its first frame.
    pub first_p2m_pfn: u64,
    /// Frames there, page tables for the list included.
    pub nr_p2m_frames: u64,
}

/// The screen that dom0 takes over (`dom0_vga_console_info`).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct VgaConsoleInfo {
    /// [`VgaConsoleInfo::TEXT_MODE_3`] or another.
    pub video_type: u8,
    #[doc(hidden)]
    pub _pad: [u8; 3],
    /// As the type says: [`TextMode3`] or [`VesaLfb`].
    pub u: [u32; 9],
}

impl VgaConsoleInfo {
    /// The text screen of every PC.
    pub const TEXT_MODE_3: u8 = 0x03;
    /// A frame buffer set up by VESA's calls.
    pub const VESA_LFB: u8 = 0x23;
    /// A frame buffer set up by EFI.
    pub const EFI_LFB: u8 = 0x70;
}

/// A text screen.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct TextMode3 {
    /// Font height in pixels.
    pub font_height: u16,
    /// Column of the cursor.
    pub cursor_x: u16,
    /// Its row.
    pub cursor_y: u16,
    /// Rows of characters.
    pub rows: u16,
    /// Columns of characters.
    pub columns: u16,
}

/// A frame buffer.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are those of VESA's standard")]
pub struct VesaLfb {
    pub width: u16,
    pub height: u16,
    pub bytes_per_line: u16,
    pub bits_per_pixel: u16,
    /// Physical address, low half.
    pub lfb_base: u32,
    /// Size in units of 64 KiB.
    pub lfb_size: u32,
    pub red_pos: u8,
    pub red_size: u8,
    pub green_pos: u8,
    pub green_size: u8,
    pub blue_pos: u8,
    pub blue_size: u8,
    pub rsvd_pos: u8,
    pub rsvd_size: u8,
    pub gbl_caps: u32,
    pub mode_attrs: u16,
    #[doc(hidden)]
    pub pad: u16,
    /// Physical address, high half.
    pub ext_lfb_base: u32,
}
