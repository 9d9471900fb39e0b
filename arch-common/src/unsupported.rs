//! The second-level translation of a machine that runs no guests yet.

use xenolith_hal::{Gfn, Mfn, P2m, P2mEntry, P2mError, P2mType, TableFrames};

/// A translation that cannot exist: no value of this type is ever made, and the compiler knows.
pub enum NoP2m {}

impl P2m for NoP2m {
    fn limit(&self) -> Gfn {
        match *self {}
    }

    fn map(&self, _: Gfn, _: Mfn, _: u64, _: P2mType, _: &dyn TableFrames) -> Result<(), P2mError> {
        match *self {}
    }

    fn unmap(&self, _: Gfn, _: u64, _: &dyn TableFrames) -> Result<(), P2mError> {
        match *self {}
    }

    fn exchange(
        &self,
        _: Gfn,
        _: Option<(Mfn, P2mType)>,
        _: &dyn TableFrames,
    ) -> Result<Option<P2mEntry>, P2mError> {
        match *self {}
    }

    fn remove_if(&self, _: Gfn, _: (Mfn, P2mType), _: &dyn TableFrames) -> Result<bool, P2mError> {
        match *self {}
    }

    fn with_entry<R>(&self, _: Gfn, _: impl FnOnce(Option<P2mEntry>) -> R) -> R {
        match *self {}
    }

    fn next_mapped(&self, _: Gfn) -> Option<(Gfn, P2mEntry, u64)> {
        match *self {}
    }

    fn release(&self, _: &dyn TableFrames) {
        match *self {}
    }
}
