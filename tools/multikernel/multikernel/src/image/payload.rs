// SPDX-License-Identifier: GPL-2.0

//! Unpacks the ELF kernel inside a bzImage.
//!
//! The kernel's build appends the unpacked size to formats that do not end with it (`size_append`,
//! scripts/Makefile.lib); gzip ends with it by itself. So for all of them the last four bytes are
//! that size, and it bounds what is unpacked here.

use std::io::{self, Read};

use super::ImageError;
use crate::spec::format_size;

/// A larger kernel than this is not believed.
const UNPACKED_MAX: u64 = 1 << 30;
/// How lzma and xz are kept from allocating what a corrupt header asks for.
const DICTIONARY_MAX_KIB: u32 = 256 << 10;
/// Largest block of lz4's legacy format.
const LZ4_BLOCK_MAX: usize = 8 << 20;

/// How the payload is compressed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Compression {
    /// CONFIG_KERNEL_GZIP
    Gzip,
    /// CONFIG_KERNEL_ZSTD
    Zstd,
    /// CONFIG_KERNEL_XZ
    Xz,
    /// CONFIG_KERNEL_LZMA
    Lzma,
    /// CONFIG_KERNEL_LZ4: the legacy format, without a frame
    Lz4,
    /// CONFIG_KERNEL_BZIP2
    Bzip2,
    /// CONFIG_KERNEL_LZO
    Lzo,
    /// CONFIG_KERNEL_UNCOMPRESSED
    None,
}

impl Compression {
    /// Recognises a format by its magic number.
    pub fn detect(data: &[u8]) -> Option<Self> {
        const MAGIC: [(&[u8], Compression); 8] = [
            (&[0x1f, 0x8b], Compression::Gzip),
            (&[0x28, 0xb5, 0x2f, 0xfd], Compression::Zstd),
            (b"\xfd7zXZ\0", Compression::Xz),
            (&[0x5d, 0, 0], Compression::Lzma),
            (&[0x02, 0x21, 0x4c, 0x18], Compression::Lz4),
            (b"BZh", Compression::Bzip2),
            (&[0x89, b'L', b'Z', b'O'], Compression::Lzo),
            (b"\x7fELF", Compression::None),
        ];
        MAGIC
            .iter()
            .find(|(magic, _)| data.starts_with(magic))
            .map(|(_, compression)| *compression)
    }
}

fn bad(what: impl std::fmt::Display) -> ImageError {
    ImageError::Payload(what.to_string())
}

/// Unpacks a payload and checks that it is as long as it says.
pub fn unpack(payload: &[u8]) -> Result<Vec<u8>, ImageError> {
    let compression =
        Compression::detect(payload).ok_or_else(|| bad("it is not in a format that Linux uses"))?;
    if compression == Compression::None {
        return Ok(payload.to_vec());
    }
    let (packed, trailer) = payload
        .split_last_chunk::<4>()
        .ok_or_else(|| bad("it is cut off"))?;
    let size = u64::from(u32::from_le_bytes(*trailer));
    if size > UNPACKED_MAX {
        return Err(bad(format_args!(
            "it claims to be {} long",
            format_size(size)
        )));
    }
    // All but gzip end before the four bytes of the size.
    let unpacked = match compression {
        Compression::Gzip => read(flate2::read::GzDecoder::new(payload), size),
        Compression::Zstd => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(packed).map_err(bad)?;
            read(decoder, size)
        }
        Compression::Xz => {
            let decoder = lzma_rust2::XzReader::new_mem_limit(packed, false, DICTIONARY_MAX_KIB);
            read(decoder, size)
        }
        Compression::Lzma => {
            let decoder = lzma_rust2::LzmaReader::new_mem_limit(packed, DICTIONARY_MAX_KIB, None)
                .map_err(bad)?;
            read(decoder, size)
        }
        Compression::Lz4 => unpack_lz4(packed, size),
        Compression::Bzip2 | Compression::Lzo | Compression::None => {
            return Err(bad(format_args!(
                "it is compressed with {compression:?}, which mkctl does not know"
            )))
        }
    }
    .map_err(bad)?;
    if unpacked.len() as u64 != size {
        return Err(bad(format_args!(
            "it is {} bytes long where {size} were announced",
            unpacked.len()
        )));
    }
    Ok(unpacked)
}

/// Reads one byte more than announced, at most: enough to see that there is too much.
fn read(reader: impl Read, size: u64) -> io::Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    reader.take(size + 1).read_to_end(&mut unpacked)?;
    Ok(unpacked)
}

/// Legacy format: the magic number, then blocks, each after its packed size.
fn unpack_lz4(packed: &[u8], size: u64) -> io::Result<Vec<u8>> {
    let mut rest = &packed[4..];
    let mut unpacked = Vec::new();
    let mut block_buffer = vec![0u8; LZ4_BLOCK_MAX];
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let block = behind
            .get(..length)
            .ok_or_else(|| io::Error::other("a block is cut off"))?;
        let count =
            lz4_flex::block::decompress_into(block, &mut block_buffer).map_err(io::Error::other)?;
        unpacked.extend_from_slice(&block_buffer[..count]);
        if unpacked.len() as u64 > size {
            break;
        }
        rest = &behind[length..];
    }
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::bzimage::tests::build;
    use crate::image::BzImage;
    use proptest::prelude::*;
    use std::io::Write;

    /// Compressible and not tiny.
    fn original() -> Vec<u8> {
        (0..200_000u32)
            .flat_map(|i| (i / 7).to_le_bytes())
            .collect()
    }

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn with_size(mut packed: Vec<u8>, data: &[u8]) -> Vec<u8> {
        packed.extend_from_slice(&(data.len() as u32).to_le_bytes());
        packed
    }

    fn zstd(data: &[u8]) -> Vec<u8> {
        let level = ruzstd::encoding::CompressionLevel::Fastest;
        with_size(ruzstd::encoding::compress_to_vec(data, level), data)
    }

    fn lz4(data: &[u8]) -> Vec<u8> {
        let mut packed = vec![0x02, 0x21, 0x4c, 0x18];
        for block in data.chunks(100_000) {
            let block = lz4_flex::block::compress(block);
            packed.extend_from_slice(&(block.len() as u32).to_le_bytes());
            packed.extend_from_slice(&block);
        }
        with_size(packed, data)
    }

    fn xz(data: &[u8]) -> Vec<u8> {
        let options = lzma_rust2::XzOptions::with_preset(1);
        let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
        writer.write_all(data).unwrap();
        with_size(writer.finish().unwrap(), data)
    }

    fn lzma(data: &[u8]) -> Vec<u8> {
        let options = lzma_rust2::LzmaOptions::with_preset(1);
        let mut writer =
            lzma_rust2::LzmaWriter::new_use_header(Vec::new(), &options, None).unwrap();
        writer.write_all(data).unwrap();
        with_size(writer.finish().unwrap(), data)
    }

    #[test]
    fn every_format_through_a_bzimage() {
        let data = original();
        for pack in [gzip, zstd, lz4, xz, lzma] {
            let file = build(&pack(&data));
            let image = BzImage::parse(&file).unwrap();
            assert!(image.extract().unwrap() == data);
        }
    }

    #[test]
    fn corrupt_payloads_are_refused() {
        let data = original();
        for pack in [gzip, zstd, lz4, xz, lzma] {
            let packed = pack(&data);
            // A wrong size, and a cut in the middle.
            let mut wrong = packed.clone();
            let last = wrong.len() - 4;
            wrong[last] ^= 1;
            assert!(unpack(&wrong).is_err());
            assert!(unpack(&packed[..packed.len() / 2]).is_err());
        }
        assert!(unpack(b"").is_err());
        assert!(unpack(b"BZh91AY&\0\0\0\0")
            .unwrap_err()
            .to_string()
            .contains("Bzip2"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn mutation_never_panics(at: prop::sample::Index, value: u8, which in 0usize..5) {
            let data = vec![7u8; 3000];
            let mut packed = [gzip, zstd, lz4, xz, lzma][which](&data);
            let at = at.index(packed.len());
            packed[at] = value;
            let _ = unpack(&packed);
        }
    }
}
