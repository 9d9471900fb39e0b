//! What a guest of this architecture is.

pub mod paging;
