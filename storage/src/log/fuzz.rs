//! One door for fuzzers: arbitrary bytes as a segment never panic, whatever they claim.

use std::{io, sync::Arc};

use super::{
    record::{Header, Kind, Stamp, encode_segment_header},
    recover::check_segment,
};
use crate::disk::DiskFile;

/// Most bytes of input that are looked at.
const INPUT_BYTES_MAX: usize = 1 << 20;

/// Reads `bytes` as recovery reads a segment, twice: as they are, and as a list of records
/// that are given right checksums, so that what lies behind the checksum is reached.
pub fn fuzz_segment(bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(INPUT_BYTES_MAX)];
    run(1, bytes.to_vec());

    let (sequence, salt) = (u64::from(bytes.first().copied().unwrap_or(1)), 0x5eed);
    let stamp = Stamp::new(sequence, salt);
    let mut made = vec![0; 4096];
    let mut rest = bytes.get(1..).unwrap_or_default();
    while let Some((instruction, behind)) = rest.split_first_chunk::<6>() {
        let [kind, arg, index, wide, len, synced] = *instruction;
        let (payload, behind) = behind.split_at(behind.len().min(usize::from(len)));
        rest = behind;
        let kinds = [Kind::Row, Kind::Meta, Kind::Truncate, Kind::Purge, Kind::Base, Kind::Seal];
        // A base record needs an index for its payload to be judged further.
        let whole = u64::from(index.saturating_sub(2)).to_le_bytes();
        let payload = if kind % 6 == 4 { &whole[..] } else { payload };
        let header = Header {
            kind: kinds[usize::from(kind) % kinds.len()],
            arg,
            // Small ones meet each other, wide ones meet the ends of the range.
            index: if wide > 250 { u64::MAX - u64::from(index) } else { u64::from(index) },
            len: u32::try_from(payload.len()).unwrap_or_default(),
            synced: u32::from(synced) << 8,
        };
        stamp.encode(header, &[payload], &mut made);
        if kind > 250 {
            // A gap, so that good records come after a bad one.
            made.extend_from_slice(&[0; 8]);
        }
    }
    made.resize(made.len().next_multiple_of(4096).max(2 * 4096), 0);
    let header = encode_segment_header(sequence, salt, made.len() as u64);
    made[..header.len()].copy_from_slice(&header);
    run(sequence, made);
}

fn run(sequence: u64, bytes: Vec<u8>) {
    let file: Arc<dyn DiskFile> = Arc::new(Bytes(bytes));
    // Either answer is fine; coming back is what is asked for.
    drop(check_segment(sequence, &file));
}

/// A file that only reads.
#[derive(Debug)]
struct Bytes(Vec<u8>);

impl DiskFile for Bytes {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        let bytes = self.0.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }
    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}
