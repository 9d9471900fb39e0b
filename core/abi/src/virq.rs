//! Virtual interrupts: events that the hypervisor itself raises.
//!
//! Header: `xen.h` (`VIRQ_*`). A per-vCPU VIRQ is bound once on each vCPU and stays there. A global one
//! is bound once per domain, on vCPU 0, and its port may be moved later.

/// How many VIRQ numbers there are; a larger number is refused with `EINVAL`.
pub const NR_VIRQS: u32 = 24;

/// The first number that an architecture may use as it likes.
pub const ARCH_FIRST: u32 = 16;

wire_enum! {
    /// A virtual interrupt.
    pub enum Virq: u32, unknown is EINVAL {
        /// Per vCPU: the time base changed or a requested timeout passed.
        Timer = 0,
        /// Per vCPU: please dump debug information.
        Debug = 1,
        /// Global, control domain: bytes came in on the emergency console.
        Console = 2,
        /// Global, control domain: a domain died, was suspended, or the like.
        DomExc = 3,
        /// Global, control domain: the trace buffer has records.
        Tbuf = 4,
        /// Global, control domain: a domain stopped for debugging.
        Debugger = 6,
        /// Per vCPU: a profiling sample is ready.
        Xenoprof = 7,
        /// Global, control domain: bytes came in on the console ring.
        ConRing = 8,
        /// Global, control domain: a physical CPU came or went.
        PcpuState = 9,
        /// Global, control domain: a memory event happened.
        MemEvent = 10,
        /// Global: an Argo message came in.
        Argo = 11,
        /// Global, control domain: hypervisor memory runs low.
        Enomem = 12,
        /// Per vCPU: a performance counter fired.
        Xenpmu = 13,
        /// Architecture VIRQ 0.
        Arch0 = 16,
        /// Architecture VIRQ 1.
        Arch1 = 17,
        /// Architecture VIRQ 2.
        Arch2 = 18,
        /// Architecture VIRQ 3.
        Arch3 = 19,
        /// Architecture VIRQ 4.
        Arch4 = 20,
        /// Architecture VIRQ 5.
        Arch5 = 21,
        /// Architecture VIRQ 6.
        Arch6 = 22,
        /// Architecture VIRQ 7.
        Arch7 = 23,
    }
}

impl Virq {
    /// Whether a domain binds this once and for all of its vCPUs together.
    ///
    /// Architecture VIRQs are said to be global: the header leaves their class to the architecture,
    /// and the ones in use (machine checks on x86) are.
    #[must_use]
    pub const fn is_global(self) -> bool {
        !matches!(
            self,
            Self::Timer | Self::Debug | Self::Xenoprof | Self::Xenpmu
        )
    }
}
