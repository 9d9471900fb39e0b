//! Fields of the virtual-machine control structure, by encoding (Intel SDM, volume 3, appendix B).
//!
//! Where a field lies is the CPU's own business: VMREAD and VMWRITE take its number. The number tells the field's width,
//! which is its type here, checked when a constant is made.

use core::marker::PhantomData;

use crate::guest::hardware::SegmentName;

/// A field's width.
pub trait Width {
    /// What it holds.
    type Value;
    /// The width as an encoding has it, in bits 13 and 14.
    const CODE: u32;
    /// From a register.
    fn from_register(value: u64) -> Self::Value;
    /// To a register.
    fn to_register(value: Self::Value) -> u64;
}

macro_rules! width {
    ($(#[$doc:meta])* $name:ident, $value:ty, $code:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub enum $name {}

        impl Width for $name {
            type Value = $value;
            const CODE: u32 = $code;
            #[inline(always)]
            fn from_register(value: u64) -> $value {
                value as $value
            }
            #[inline(always)]
            fn to_register(value: $value) -> u64 {
                value.into()
            }
        }
    };
}

width!(
    /// 16 bits.
    Word, u16, 0
);
width!(
    /// 64 bits.
    Quad, u64, 1
);
width!(
    /// 32 bits.
    Double, u32, 2
);
width!(
    /// As wide as a register.
    Natural, u64, 3
);

/// A field's number.
#[derive(Clone, Copy, Debug)]
pub struct Field<W>(u32, PhantomData<W>);

impl<W: Width> Field<W> {
    const fn new(encoding: u32) -> Self {
        assert!(
            encoding >> 13 == W::CODE,
            "the encoding is of another width"
        );
        assert!(
            encoding & 1 == 0 && encoding & 1 << 12 == 0,
            "no field, or half of one"
        );
        Self(encoding, PhantomData)
    }

    /// For VMREAD and VMWRITE.
    #[inline(always)]
    #[must_use]
    pub const fn encoding(self) -> u32 {
        self.0
    }

    /// The field for a segment register, of those in the order of segment registers that begin with this.
    #[inline(always)]
    #[must_use]
    pub const fn of(self, segment: SegmentName) -> Self {
        Self(self.0 + 2 * segment as u32, PhantomData)
    }
}

macro_rules! fields {
    ($width:ident { $($name:ident = $encoding:literal),* $(,)? }) => {
        $(
            #[allow(missing_docs, reason = "the manual's own names")]
            pub const $name: Field<$width> = const { Field::new($encoding) };
        )*
    };
}

fields!(Word {
    VPID = 0x0000,
    GUEST_INTERRUPT_STATUS = 0x0810,
    // ES, CS, SS, DS, FS, GS.
    GUEST_SELECTOR = 0x0800,
    GUEST_LDTR_SELECTOR = 0x080c,
    GUEST_TR_SELECTOR = 0x080e,
    HOST_ES_SELECTOR = 0x0c00,
    HOST_CS_SELECTOR = 0x0c02,
    HOST_SS_SELECTOR = 0x0c04,
    HOST_DS_SELECTOR = 0x0c06,
    HOST_FS_SELECTOR = 0x0c08,
    HOST_GS_SELECTOR = 0x0c0a,
    HOST_TR_SELECTOR = 0x0c0c,
});

fields!(Quad {
    IO_BITMAP_A = 0x2000,
    IO_BITMAP_B = 0x2002,
    MSR_BITMAP = 0x2004,
    TSC_OFFSET = 0x2010,
    VIRTUAL_APIC_ADDRESS = 0x2012,
    EPT_POINTER = 0x201a,
    EOI_EXIT0 = 0x201c,
    EOI_EXIT1 = 0x201e,
    EOI_EXIT2 = 0x2020,
    EOI_EXIT3 = 0x2022,
    GUEST_PHYSICAL_ADDRESS = 0x2400,
    LINK_POINTER = 0x2800,
    GUEST_DEBUGCTL = 0x2802,
    GUEST_PAT = 0x2804,
    GUEST_EFER = 0x2806,
    GUEST_PDPTE0 = 0x280a,
    GUEST_PDPTE1 = 0x280c,
    GUEST_PDPTE2 = 0x280e,
    GUEST_PDPTE3 = 0x2810,
    HOST_PAT = 0x2c00,
    HOST_EFER = 0x2c02,
});

fields!(Double {
    PIN_CONTROLS = 0x4000,
    PRIMARY_CONTROLS = 0x4002,
    EXCEPTION_BITMAP = 0x4004,
    PAGE_FAULT_MASK = 0x4006,
    PAGE_FAULT_MATCH = 0x4008,
    CR3_TARGET_COUNT = 0x400a,
    EXIT_CONTROLS = 0x400c,
    EXIT_STORE_COUNT = 0x400e,
    EXIT_LOAD_COUNT = 0x4010,
    ENTRY_CONTROLS = 0x4012,
    ENTRY_LOAD_COUNT = 0x4014,
    ENTRY_EVENT = 0x4016,
    ENTRY_ERROR_CODE = 0x4018,
    ENTRY_INSTRUCTION_LENGTH = 0x401a,
    TPR_THRESHOLD = 0x401c,
    SECONDARY_CONTROLS = 0x401e,
    PAUSE_GAP = 0x4020,
    PAUSE_WINDOW = 0x4022,
    INSTRUCTION_ERROR = 0x4400,
    EXIT_REASON = 0x4402,
    EXIT_EVENT = 0x4404,
    EXIT_ERROR_CODE = 0x4406,
    INTERRUPTED_EVENT = 0x4408,
    INTERRUPTED_ERROR_CODE = 0x440a,
    INSTRUCTION_LENGTH = 0x440c,
    // ES, CS, SS, DS, FS, GS.
    GUEST_LIMIT = 0x4800,
    GUEST_LDTR_LIMIT = 0x480c,
    GUEST_TR_LIMIT = 0x480e,
    GUEST_GDTR_LIMIT = 0x4810,
    GUEST_IDTR_LIMIT = 0x4812,
    // ES, CS, SS, DS, FS, GS.
    GUEST_RIGHTS = 0x4814,
    GUEST_LDTR_RIGHTS = 0x4820,
    GUEST_TR_RIGHTS = 0x4822,
    INTERRUPTIBILITY = 0x4824,
    ACTIVITY = 0x4826,
    GUEST_SYSENTER_CS = 0x482a,
    HOST_SYSENTER_CS = 0x4c00,
});

fields!(Natural {
    CR0_MASK = 0x6000,
    CR4_MASK = 0x6002,
    CR0_SHADOW = 0x6004,
    CR4_SHADOW = 0x6006,
    QUALIFICATION = 0x6400,
    GUEST_CR0 = 0x6800,
    GUEST_CR3 = 0x6802,
    GUEST_CR4 = 0x6804,
    // ES, CS, SS, DS, FS, GS.
    GUEST_BASE = 0x6806,
    GUEST_LDTR_BASE = 0x6812,
    GUEST_TR_BASE = 0x6814,
    GUEST_GDTR_BASE = 0x6816,
    GUEST_IDTR_BASE = 0x6818,
    GUEST_DR7 = 0x681a,
    GUEST_RSP = 0x681c,
    GUEST_RIP = 0x681e,
    GUEST_RFLAGS = 0x6820,
    GUEST_PENDING_DEBUG = 0x6822,
    GUEST_SYSENTER_ESP = 0x6824,
    GUEST_SYSENTER_EIP = 0x6826,
    HOST_CR0 = 0x6c00,
    HOST_CR3 = 0x6c02,
    HOST_CR4 = 0x6c04,
    HOST_FS_BASE = 0x6c06,
    HOST_GS_BASE = 0x6c08,
    HOST_TR_BASE = 0x6c0a,
    HOST_GDTR_BASE = 0x6c0c,
    HOST_IDTR_BASE = 0x6c0e,
    HOST_SYSENTER_ESP = 0x6c10,
    HOST_SYSENTER_EIP = 0x6c12,
    HOST_RSP = 0x6c14,
    HOST_RIP = 0x6c16,
});

/// Vectors whose end exits, 64 in each.
pub const EOI_EXITS: [Field<Quad>; 4] = [EOI_EXIT0, EOI_EXIT1, EOI_EXIT2, EOI_EXIT3];

/// The four pointers of a guest with PAE paging.
pub const GUEST_PDPTES: [Field<Quad>; 4] = [GUEST_PDPTE0, GUEST_PDPTE1, GUEST_PDPTE2, GUEST_PDPTE3];

const _: () = {
    assert!(GUEST_SELECTOR.of(SegmentName::Gs).0 + 2 == GUEST_LDTR_SELECTOR.0);
    assert!(GUEST_LIMIT.of(SegmentName::Gs).0 + 2 == GUEST_LDTR_LIMIT.0);
    assert!(GUEST_RIGHTS.of(SegmentName::Gs).0 + 2 == GUEST_LDTR_RIGHTS.0);
    assert!(GUEST_BASE.of(SegmentName::Gs).0 + 2 == GUEST_LDTR_BASE.0);
};
