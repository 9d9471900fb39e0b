//! Policy of the security module: numbers only.
//!
//! Header: `xsm/flask_op.h`. A build without the FLASK module answers every sub-operation with `ENOSYS`, and
//! kernels and tools take that as "no policy".

/// Version of the struct.
pub const INTERFACE_VERSION: u32 = 1;

wire_enum! {
    /// A sub-operation of `xsm_op`, named as in the header.
    #[expect(missing_docs, reason = "numbers only; Xenolith has no such policy")]
    pub enum FlaskOp: u32, unknown is ENOSYS {
        Load = 1,
        Getenforce = 2,
        Setenforce = 3,
        ContextToSid = 4,
        SidToContext = 5,
        Access = 6,
        Create = 7,
        Relabel = 8,
        User = 9,
        Policyvers = 10,
        Getbool = 11,
        Setbool = 12,
        Commitbools = 13,
        Mls = 14,
        Disable = 15,
        GetavcThreshold = 16,
        SetavcThreshold = 17,
        AvcHashstats = 18,
        AvcCachestats = 19,
        Member = 20,
        AddOcontext = 21,
        DelOcontext = 22,
        GetPeerSid = 23,
        RelabelDomain = 24,
        DevicetreeLabel = 25,
    }
}
