//! The feature bits that a hardware-virtualized guest may be shown, by name (Intel SDM, volume 2, CPUID; AMD64 APM,
//! volume 3, appendix E).
//!
//! Each module is one register of one leaf. What is not listed is hidden: its instructions or MSRs are not handled
//! (performance counters, MONITOR, VMX, SVM, SMX, MPX, protection keys, processor trace, SGX, TSX, five-level paging).

macro_rules! register {
    ($(#[$doc:meta])* $module:ident { $($name:ident = $bit:literal),* $(,)? }) => {
        $(#[$doc])*
        #[allow(missing_docs, reason = "the manuals' own names")]
        pub mod $module {
            $(pub const $name: u32 = 1 << $bit;)*
            /// All that is listed.
            pub const LISTED: u32 = 0 $(| $name)*;
        }
    };
}

register!(
    /// Leaf 1, ECX.
    leaf1_ecx {
        SSE3 = 0, PCLMULQDQ = 1, SSSE3 = 9, FMA = 12, CX16 = 13, PCID = 17, SSE4_1 = 19, SSE4_2 = 20, X2APIC = 21,
        MOVBE = 22, POPCNT = 23, AES = 25, XSAVE = 26, AVX = 28, F16C = 29, RDRAND = 30,
    }
);
register!(
    /// Leaf 1, ECX: set by us, not by the host.
    leaf1_ecx_own { OSXSAVE = 27, HYPERVISOR = 31 }
);
register!(
    /// Leaf 1, EDX.
    leaf1_edx {
        FPU = 0, VME = 1, DE = 2, PSE = 3, TSC = 4, MSR = 5, PAE = 6, MCE = 7, CX8 = 8, APIC = 9, SEP = 11, MTRR = 12,
        PGE = 13, MCA = 14, CMOV = 15, PAT = 16, PSE36 = 17, CLFLUSH = 19, MMX = 23, FXSR = 24, SSE = 25, SSE2 = 26,
        SELF_SNOOP = 27,
    }
);
register!(
    /// Leaf 1, EDX: more than one logical processor.
    leaf1_edx_own { HTT = 28 }
);
register!(
    /// Leaf 1, EDX: thermal control by MSRs, which PV guests are shown.
    leaf1_edx_pv { ACPI = 22 }
);
register!(
    /// Leaf 7.0, EBX.
    leaf7_ebx {
        FSGSBASE = 0, BMI1 = 3, AVX2 = 5, FDP_EXCPTN_ONLY = 6, SMEP = 7, BMI2 = 8, ERMS = 9, INVPCID = 10,
        NO_FPU_SEL = 13, AVX512F = 16, AVX512DQ = 17, RDSEED = 18, ADX = 19, SMAP = 20, AVX512_IFMA = 21,
        CLFLUSHOPT = 23, CLWB = 24, AVX512PF = 26, AVX512ER = 27, AVX512CD = 28, SHA = 29, AVX512BW = 30,
        AVX512VL = 31,
    }
);
register!(
    /// Leaf 7.0, ECX.
    leaf7_ecx {
        PREFETCHWT1 = 0, AVX512_VBMI = 1, UMIP = 2, AVX512_VBMI2 = 6, GFNI = 8, VAES = 9, VPCLMULQDQ = 10,
        AVX512_VNNI = 11, AVX512_BITALG = 12, AVX512_VPOPCNTDQ = 14, RDPID = 22, CLDEMOTE = 25, MOVDIRI = 27,
        MOVDIR64B = 28,
    }
);
register!(
    /// Leaf 7.0, EDX.
    leaf7_edx {
        AVX512_4VNNIW = 2, AVX512_4FMAPS = 3, FSRM = 4, AVX512_VP2INTERSECT = 8, MD_CLEAR = 10, SERIALIZE = 14,
        IBRS = 26, STIBP = 27, ARCH_CAPABILITIES = 29, SSBD = 31,
    }
);
register!(
    /// Leaf 7.0, EDX: for the hypervisor alone, which keeps guests' caches clean itself.
    speculation_leaf7_edx { L1D_FLUSH = 28 }
);
register!(
    /// Leaf 0x8000_0021, EAX: the same.
    speculation_leaf21_eax { VERW_CLEAR = 5 }
);
register!(
    /// Leaf 7.1, EAX.
    leaf7_1_eax { AVX_VNNI = 4, AVX512_BF16 = 5, FZRM = 10, FSRS = 11, FSRCS = 12 }
);
register!(
    /// Leaf 0xd.1, EAX. XSAVES is hidden: there are no supervisor states.
    leaf_d1_eax { XSAVEOPT = 0, XSAVEC = 1, XGETBV1 = 2 }
);
register!(
    /// Leaf 0x8000_0001, ECX.
    ext1_ecx {
        LAHF = 0, ABM = 5, SSE4A = 6, MISALIGNSSE = 7, PREFETCHW = 8, XOP = 11, FMA4 = 16, TBM = 21,
    }
);
register!(
    /// Leaf 0x8000_0001, ECX: the logical processors are cores, not threads.
    ext1_ecx_own { CMP_LEGACY = 1 }
);
register!(
    /// Leaf 0x8000_0001, EDX, beside the copies of leaf 1 that AMD keeps there.
    ext1_edx {
        SYSCALL = 11, NX = 20, MMXEXT = 22, FFXSR = 25, PAGE1GB = 26, RDTSCP = 27, LM = 29, NOW3DEXT = 30, NOW3D = 31,
    }
);
/// Bits of leaf 1, EDX, that AMD repeats in leaf 0x8000_0001, EDX.
pub const EXT1_EDX_COPIES: u32 = 0x0183_f3ff;
register!(
    /// Leaf 0x8000_0007, EDX.
    ext7_edx { INVARIANT_TSC = 8 }
);
register!(
    /// Leaf 0x8000_0008, EBX.
    ext8_ebx {
        CLZERO = 0, RSTR_FP_ERR_PTRS = 2, IBPB = 12, IBRS = 14, STIBP = 15, IBRS_ALWAYS = 16, STIBP_ALWAYS = 17,
        IBRS_FAST = 18, SSBD = 24, SSB_NO = 26, BTC_NO = 29,
    }
);
register!(
    /// Leaf 0x8000_0021, EAX.
    ext21_eax { NO_NESTED_DATA_BP = 0, LFENCE_SERIALIZING = 2, NULL_SELECTOR_CLEARS_BASE = 6 }
);

/// What uses the upper halves of the YMM registers, by register.
pub mod needs_avx {
    use super::{ext1_ecx, leaf1_ecx, leaf7_1_eax, leaf7_ebx, leaf7_ecx};
    /// Leaf 1, ECX.
    pub const LEAF1_ECX: u32 = leaf1_ecx::AVX | leaf1_ecx::FMA | leaf1_ecx::F16C;
    /// Leaf 7.0, EBX.
    pub const LEAF7_EBX: u32 = leaf7_ebx::AVX2;
    /// Leaf 7.0, ECX.
    pub const LEAF7_ECX: u32 = leaf7_ecx::VAES | leaf7_ecx::VPCLMULQDQ;
    /// Leaf 7.1, EAX.
    pub const LEAF7_1_EAX: u32 = leaf7_1_eax::AVX_VNNI;
    /// Leaf 0x8000_0001, ECX.
    pub const EXT1_ECX: u32 = ext1_ecx::XOP | ext1_ecx::FMA4;
}

/// What uses ZMM and mask registers, by register.
pub mod needs_avx512 {
    use super::{leaf7_1_eax, leaf7_ebx as b, leaf7_ecx as c, leaf7_edx as d};
    /// Leaf 7.0, EBX.
    pub const LEAF7_EBX: u32 = b::AVX512F
        | b::AVX512DQ
        | b::AVX512_IFMA
        | b::AVX512PF
        | b::AVX512ER
        | b::AVX512CD
        | b::AVX512BW
        | b::AVX512VL;
    /// Leaf 7.0, ECX.
    pub const LEAF7_ECX: u32 =
        c::AVX512_VBMI | c::AVX512_VBMI2 | c::AVX512_VNNI | c::AVX512_BITALG | c::AVX512_VPOPCNTDQ;
    /// Leaf 7.0, EDX.
    pub const LEAF7_EDX: u32 = d::AVX512_4VNNIW | d::AVX512_4FMAPS | d::AVX512_VP2INTERSECT;
    /// Leaf 7.1, EAX.
    pub const LEAF7_1_EAX: u32 = leaf7_1_eax::AVX512_BF16;
}

/// What needs SPEC_CTRL and PRED_CMD to be handled, by register.
pub mod needs_spec_ctrl {
    use super::{ext8_ebx as e, leaf7_edx as d};
    /// Leaf 7.0, EDX.
    pub const LEAF7_EDX: u32 = d::IBRS | d::STIBP | d::SSBD;
    /// Leaf 0x8000_0008, EBX.
    pub const EXT8_EBX: u32 =
        e::IBPB | e::IBRS | e::STIBP | e::IBRS_ALWAYS | e::STIBP_ALWAYS | e::IBRS_FAST | e::SSBD;
}
