//! The page by which a PV kernel learns of its memory and its machine (`xen.h`, `start_info`; for dom0 the screen behind it).

use xenolith_abi::pv_start_info::{
    MAGIC, MAX_GUEST_CMDLINE, StartConsole, StartFlags, StartInfo, VgaConsoleInfo,
};
use xenolith_hal::{HostPhys, PAGE_SIZE};
use zerocopy::IntoBytes;

use super::{frames::FrameMap, layout::Layout};

/// What is not told by the layout.
#[derive(Clone, Copy, Debug)]
pub struct Contents<'c> {
    /// What kind of domain it is. How its ramdisk is given is added.
    pub flags: StartFlags,
    /// Its command line; what is longer than [`MOST_TEXT`] is cut off.
    pub command_line: &'c [u8],
    /// Where its shared info is.
    pub shared_info: HostPhys,
    /// The store's port, for a domain with rings.
    pub store_port: u32,
    /// The console's.
    pub console_port: u32,
    /// The screen, for dom0.
    pub screen: Option<VgaConsoleInfo>,
}

/// Most bytes of a command line.
pub const MOST_TEXT: usize = MAX_GUEST_CMDLINE - 1;
const SIZE: usize = size_of::<StartInfo>();
const SCREEN: usize = size_of::<VgaConsoleInfo>();
const _: () = assert!(SIZE + SCREEN <= PAGE_SIZE);

/// The page; `None` where a frame is not in the map.
#[must_use]
pub fn page(
    layout: &Layout,
    frames: &FrameMap,
    contents: &Contents<'_>,
) -> Option<[u8; PAGE_SIZE]> {
    let mut magic = [0; 32];
    put(&mut magic, MAGIC);
    let mut cmd_line = [0; MAX_GUEST_CMDLINE];
    let length = contents.command_line.len().min(MOST_TEXT);
    put(&mut cmd_line, contents.command_line.get(..length)?);
    let mut flags = contents.flags;
    let (mod_start, mod_len) = match layout.ramdisk {
        None => (0, 0),
        Some(ramdisk) => {
            flags.set(StartFlags::MOD_START_PFN, ramdisk.address.is_none());
            (ramdisk.address.unwrap_or(ramdisk.frame.0), ramdisk.size)
        }
    };
    let list = layout.list;
    let (store_mfn, store_evtchn, console) = match layout.rings {
        Some(rings) => {
            let console = StartConsole {
                mfn: frames.mfn(rings.console)?.0,
                evtchn: contents.console_port,
                ..StartConsole::default()
            };
            (frames.mfn(rings.store)?.0, contents.store_port, console)
        }
        None if contents.screen.is_some() => {
            (0, 0, StartConsole::of_dom0(SIZE as u32, SCREEN as u32))
        }
        None => (0, 0, StartConsole::default()),
    };
    let info = StartInfo {
        magic,
        nr_pages: layout.frames,
        shared_info: contents.shared_info.0,
        flags,
        _pad0: 0,
        store_mfn,
        store_evtchn,
        _pad1: 0,
        console,
        pt_base: layout.address(layout.tables.root()),
        nr_pt_frames: layout.tables.area_tables(),
        mfn_list: list.address,
        mod_start,
        mod_len,
        cmd_line,
        first_p2m_pfn: if list.outside { list.frame.0 } else { 0 },
        nr_p2m_frames: match list.outside {
            true => list.frames + layout.tables.list_tables(),
            false => 0,
        },
    };
    let mut page = [0; PAGE_SIZE];
    put(&mut page, info.as_bytes());
    if let (None, Some(screen)) = (layout.rings, contents.screen) {
        put(page.get_mut(SIZE..)?, screen.as_bytes());
    }
    Some(page)
}

fn put(to: &mut [u8], from: &[u8]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
}
