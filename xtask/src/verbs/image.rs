//! stub
use crate::boards::Board;
use crate::emulator::{Boot, Files};
use anyhow::{Result, bail};
pub(crate) fn boot(_b: &'static Board, _f: &Files, _r: bool) -> Result<Boot> {
    bail!("no")
}
