//! `xen_version`: who the hypervisor is and what it offers.
//!
//! Headers: `version.h`, `features.h`. Every domain may ask; only the command line and the build id are kept from
//! ordinary domains, as Xen keeps them.

use xenolith_abi::{
    version::{
        BuildIdHeader, CAPABILITIES_LEN, CHANGESET_LEN, COMMANDLINE_LEN, CompileInfo,
        EXTRAVERSION_LEN, FeatureInfo, Features, PlatformParameters, VERSION, VersionOp,
    },
    vm_assist::Assist,
};
use xenolith_hal::{GuestVirt, Hal, PAGE_SIZE};

use super::access::Privilege;
use crate::{Domain, Errno, domain::DomainConfig, guest::Caller};

/// What stands where an ordinary domain may not look.
const DENIED: &[u8] = b"<denied>\0";
const EXTRAVERSION: &str = ".0-xenolith";
const CHANGESET: Option<&str> = option_env!("XENOLITH_CHANGESET");
const COMPILER: Option<&str> = option_env!("XENOLITH_COMPILER");
const BUILD_DATE: Option<&str> = option_env!("XENOLITH_BUILD_DATE");
/// Text form of the build id; an image without one has none to tell.
const BUILD_ID: Option<&str> = option_env!("XENOLITH_BUILD_ID");

/// Serves `xen_version`. Kernels probe the version itself all the time to have pending events looked at.
#[inline]
pub fn xen_version<H: Hal>(caller: Caller<'_, H>, cmd: u32, arg: GuestVirt) -> Result<i64, Errno> {
    if cmd == VersionOp::Version.number() {
        return Ok(VERSION.into());
    }
    others(caller, cmd, arg)
}

#[inline(never)]
fn others<H: Hal>(caller: Caller<'_, H>, cmd: u32, arg: GuestVirt) -> Result<i64, Errno> {
    match VersionOp::try_from(cmd)? {
        VersionOp::Version => return Ok(VERSION.into()),
        VersionOp::Extraversion => {
            caller.write(arg, &text::<EXTRAVERSION_LEN>(EXTRAVERSION))?;
        }
        VersionOp::CompileInfo => caller.write(arg, &compile_info())?,
        VersionOp::Capabilities => {
            caller.write(arg, &text::<CAPABILITIES_LEN>(caller.hv.hal.capabilities()))?;
        }
        VersionOp::Changeset => {
            caller.write(arg, &text::<CHANGESET_LEN>(CHANGESET.unwrap_or("unknown")))?;
        }
        VersionOp::PlatformParameters => {
            let virt_start = H::VIRT_START;
            caller.write(arg, &PlatformParameters { virt_start })?;
        }
        VersionOp::GetFeatures => get_features(caller, arg)?,
        VersionOp::Pagesize if arg.0 != 0 => return Err(Errno::EINVAL),
        VersionOp::Pagesize => return Ok(PAGE_SIZE as i64),
        VersionOp::GuestHandle => {
            let handle = *caller.domain().handle.lock();
            caller.write(arg, &handle)?;
        }
        VersionOp::Commandline => command_line(caller, arg)?,
        VersionOp::BuildId => return build_id(caller, arg),
    }
    Ok(0)
}

/// A string in its fixed buffer, cut so that it ends in a zero byte.
fn text<const LEN: usize>(text: &str) -> [u8; LEN] {
    let mut buffer = [0; LEN];
    let room = buffer.iter_mut().take(LEN.saturating_sub(1));
    for (place, byte) in room.zip(text.bytes()) {
        *place = byte;
    }
    buffer
}

fn compile_info() -> CompileInfo {
    CompileInfo {
        compiler: text(COMPILER.unwrap_or("rustc")),
        compile_by: text("xenolith"),
        compile_domain: text(""),
        compile_date: text(BUILD_DATE.unwrap_or("")),
    }
}

fn get_features<H: Hal>(caller: Caller<'_, H>, arg: GuestVirt) -> Result<(), Errno> {
    let mut info: FeatureInfo = caller.read(arg)?;
    if info.submap_idx != 0 {
        return Err(Errno::EINVAL);
    }
    let domain = caller.domain();
    info.submap = match domain.is_pv() {
        true => pv_features(domain),
        false => features::<H>(&domain.config),
    };
    caller.write(arg, &info)
}

/// What a paravirtual domain is told. Its frames are the machine's; it checks for itself that it knows.
fn pv_features<H: Hal>(domain: &Domain<H>) -> Features {
    let mut features = Features::MEMORY_OP_VNODE_SUPPORTED
        | Features::MMU_PT_UPDATE_PRESERVE_AD
        | Features::HIGHMEM_ASSIST
        | Features::GNTTAB_MAP_AVAIL_BITS
        | Features::DIRECT_MAPPED;
    features.set(Features::DOM0, domain.config.privileged);
    let wide_roots = domain.assists(Assist::PaeExtendedCr3);
    features.set(Features::PAE_PGDIR_ABOVE_4GB, wide_roots);
    features
}

/// What a translated domain is told of what the hypervisor does for it.
pub fn features<H: Hal>(config: &DomainConfig) -> Features {
    let mut features = H::FEATURES
        | Features::MEMORY_OP_VNODE_SUPPORTED
        | Features::WRITABLE_PAGE_TABLES
        | Features::AUTO_TRANSLATED_PHYSMAP;
    features.set(Features::DOM0, config.privileged);
    features.set(Features::DIRECT_MAPPED, config.direct_map);
    features.set(Features::NOT_DIRECT_MAPPED, !config.direct_map);
    features
}

fn command_line<H: Hal>(caller: Caller<'_, H>, arg: GuestVirt) -> Result<(), Errno> {
    if Privilege::of(caller).is_err() {
        return caller.write_bytes(arg, DENIED);
    }
    let line = caller.hv.command_line.get().map_or("", |line| line);
    caller.write(arg, &text::<COMMANDLINE_LEN>(line))
}

fn build_id<H: Hal>(caller: Caller<'_, H>, arg: GuestVirt) -> Result<i64, Errno> {
    Privilege::of(caller)?;
    let mut room = None;
    if arg.0 != 0 {
        let header: BuildIdHeader = caller.read(arg)?;
        if header.len == 0 {
            return Err(Errno::EINVAL);
        }
        room = Some(header.len as usize);
    }
    let id = BUILD_ID.ok_or(Errno::ENODATA)?.as_bytes();
    if let Some(room) = room {
        if id.len() > room {
            return Err(Errno::ENOBUFS);
        }
        caller.write_bytes(arg.plus(size_of::<BuildIdHeader>() as u64), id)?;
    }
    Ok(id.len() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypercall::rig::*;
    use alloc::{boxed::Box, string::String};
    use xenolith_abi::Nr;

    fn call(rig: &Rig, from: u16, op: VersionOp, arg: u64) -> Result<i64, Errno> {
        rig.call(from, Nr::XenVersion, [op.number().into(), arg, 0, 0, 0])
    }

    fn string(rig: &Rig, from: u16, op: VersionOp, len: usize) -> String {
        rig.hv_write(from, PAGE, &[0xffu8; 1100]);
        assert_eq!(call(rig, from, op, PAGE), Ok(0));
        let all = rig.hv_read::<[u8; 1100]>(from, PAGE);
        assert_eq!(all[len], 0xff, "{op:?} writes past its buffer");
        let end = all.iter().position(|byte| *byte == 0).unwrap();
        String::from_utf8(all[..end].to_vec()).unwrap()
    }

    #[test]
    fn the_version_is_that_of_the_abi() {
        let rig = Rig::new();
        assert_eq!(call(&rig, 1, VersionOp::Version, NOWHERE), Ok(4 << 16 | 17));
        assert_eq!(call(&rig, 1, VersionOp::Pagesize, 0), Ok(4096));
        assert_eq!(call(&rig, 1, VersionOp::Pagesize, PAGE), Err(Errno::EINVAL));
        assert_eq!(
            rig.call(0, Nr::XenVersion, [11, PAGE, 0, 0, 0]),
            Err(Errno::ENOSYS)
        );
    }

    #[test]
    fn strings_end_in_a_zero_byte_and_stay_in_their_buffers() {
        let rig = Rig::new();
        assert_eq!(string(&rig, 1, VersionOp::Extraversion, 16), ".0-xenolith");
        assert_eq!(
            string(&rig, 1, VersionOp::Capabilities, 1024),
            "xen-3.0-sim "
        );
        string(&rig, 1, VersionOp::Changeset, 64);
        string(&rig, 1, VersionOp::CompileInfo, 144);
        assert_eq!(text::<4>("longer"), *b"lon\0");
    }

    #[test]
    fn the_command_line_is_kept_from_ordinary_domains() {
        let rig = Rig::new();
        rig.hv.command_line.call_once(|| Box::from("dom0_mem=1G"));
        assert_eq!(string(&rig, 0, VersionOp::Commandline, 1024), "dom0_mem=1G");
        assert_eq!(string(&rig, 1, VersionOp::Commandline, 9), "<denied>");
        assert_eq!(call(&rig, 1, VersionOp::BuildId, 0), Err(Errno::EPERM));
        rig.hv_write(0, PAGE, &0u32);
        assert_eq!(call(&rig, 0, VersionOp::BuildId, PAGE), Err(Errno::EINVAL));
    }

    #[test]
    fn features_tell_dom0_from_others() {
        let rig = Rig::new();
        let features = |from| {
            rig.hv_write(from, PAGE, &FeatureInfo::default());
            call(&rig, from, VersionOp::GetFeatures, PAGE).unwrap();
            rig.hv_read::<FeatureInfo>(from, PAGE).submap
        };
        let both = Features::AUTO_TRANSLATED_PHYSMAP | Features::WRITABLE_PAGE_TABLES;
        assert!(features(0).contains(both | Features::DOM0 | Features::DIRECT_MAPPED));
        assert!(features(1).contains(both | Features::NOT_DIRECT_MAPPED));
        assert!(!features(1).intersects(Features::DOM0 | Features::DIRECT_MAPPED));
        let beyond = FeatureInfo {
            submap_idx: 1,
            ..Default::default()
        };
        rig.hv_write(1, PAGE, &beyond);
        assert_eq!(
            call(&rig, 1, VersionOp::GetFeatures, PAGE),
            Err(Errno::EINVAL)
        );
    }

    #[test]
    fn a_domain_reads_its_own_handle() {
        let rig = Rig::new();
        *rig.domains[1].handle.lock() = [7; 16];
        assert_eq!(call(&rig, 1, VersionOp::GuestHandle, PAGE), Ok(0));
        assert_eq!(rig.hv_read::<[u8; 16]>(1, PAGE), [7; 16]);
    }

    #[test]
    fn a_buffer_that_cannot_be_written_is_a_fault() {
        let rig = Rig::new();
        let without = [VersionOp::Version, VersionOp::Pagesize];
        for op in VersionOp::ALL.iter().filter(|op| !without.contains(op)) {
            assert_eq!(call(&rig, 0, *op, NOWHERE), Err(Errno::EFAULT), "{op:?}");
        }
    }
}
