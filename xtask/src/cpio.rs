//! Writes cpio archives in the `newc` form that Linux takes as an initramfs (its document
//! "initramfs buffer format"), so that device nodes need neither root nor the cpio program.

use std::io::{self, Write};

const S_IFREG: u32 = 0o100_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFLNK: u32 = 0o120_000;
const S_IFCHR: u32 = 0o020_000;

/// An archive under construction. All files belong to root and carry no time, so the same content gives the same bytes.
pub(crate) struct Cpio<W: Write> {
    out: W,
    next_inode: u32,
}

impl<W: Write> Cpio<W> {
    /// Starts an empty archive.
    pub(crate) fn new(out: W) -> Self {
        Cpio { out, next_inode: 1 }
    }

    /// Adds a folder. Its parent must have been added before.
    pub(crate) fn folder(&mut self, path: &str, mode: u32) -> io::Result<()> {
        self.entry(path, S_IFDIR | mode, (0, 0), b"")
    }

    /// Adds a plain file.
    pub(crate) fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.entry(path, S_IFREG | mode, (0, 0), content)
    }

    /// Adds a symbolic link to `target`.
    pub(crate) fn link(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.entry(path, S_IFLNK | 0o777, (0, 0), target.as_bytes())
    }

    /// Adds a character device node.
    pub(crate) fn character_device(
        &mut self,
        path: &str,
        mode: u32,
        major: u32,
        minor: u32,
    ) -> io::Result<()> {
        self.entry(path, S_IFCHR | mode, (major, minor), b"")
    }

    /// Writes the end mark and gives the writer back.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.next_inode = 0;
        self.entry("TRAILER!!!", 0, (0, 0), b"")?;
        Ok(self.out)
    }

    fn entry(
        &mut self,
        path: &str,
        mode: u32,
        device: (u32, u32),
        content: &[u8],
    ) -> io::Result<()> {
        let size = u32::try_from(content.len())
            .map_err(|_| io::Error::other("a file of 4 GiB does not fit a cpio archive"))?;
        let name_size = path.len() as u32 + 1;
        let links = if mode & S_IFDIR == S_IFDIR { 2 } else { 1 };
        let fields = [
            self.next_inode,
            mode,
            0,
            0,
            links,
            0,
            size,
            0,
            0,
            device.0,
            device.1,
            name_size,
            0,
        ];
        self.next_inode += 1;
        let mut record = String::from("070701");
        for field in fields {
            record.push_str(&format!("{field:08X}"));
        }
        record.push_str(path);
        record.push('\0');
        self.padded(record.as_bytes())?;
        self.padded(content)
    }

    /// Writes `bytes` and fills up to a multiple of four; each entry starts at one, so the length decides.
    fn padded(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        let fill = bytes.len().next_multiple_of(4) - bytes.len();
        self.out.write_all(&[0; 3][..fill])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive() -> Vec<u8> {
        let mut cpio = Cpio::new(Vec::new());
        cpio.folder("dev", 0o755).unwrap();
        cpio.character_device("dev/console", 0o600, 5, 1).unwrap();
        cpio.file("init", 0o755, b"hello").unwrap();
        cpio.link("bin", "usr").unwrap();
        cpio.finish().unwrap()
    }

    #[test]
    fn every_record_starts_at_a_multiple_of_four_with_the_magic_number() {
        let bytes = archive();
        let mut at = 0;
        let mut names = Vec::new();
        while at < bytes.len() {
            assert_eq!(&bytes[at..at + 6], b"070701");
            let field = |n: usize| {
                let from = at + 6 + 8 * n;
                usize::from_str_radix(std::str::from_utf8(&bytes[from..from + 8]).unwrap(), 16)
                    .unwrap()
            };
            let (size, name_size) = (field(6), field(11));
            names.push(
                String::from_utf8(bytes[at + 110..at + 110 + name_size - 1].to_vec()).unwrap(),
            );
            at = (at + 110 + name_size).next_multiple_of(4) + size.next_multiple_of(4);
        }
        assert_eq!(names, ["dev", "dev/console", "init", "bin", "TRAILER!!!"]);
    }

    #[test]
    fn a_device_node_carries_its_numbers() {
        let bytes = archive();
        let text = String::from_utf8_lossy(&bytes);
        let at = text.find("dev/console").unwrap();
        assert_eq!(&text[at - 8 * 4..at - 8 * 2], "0000000500000001");
    }

    #[test]
    fn the_same_content_gives_the_same_bytes() {
        assert_eq!(archive(), archive());
    }
}
