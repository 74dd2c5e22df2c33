//! Owns the one layer of a checkpoint's OCI image: the archive's members, without what `super::strip` takes out and with another name of the base image.
//!
//! Always: goes through the archive once, in pieces of any length; holds of the four descriptions the member. Each header is written anew, plain, and names too: what
//! this reader saw is what the runtime's reader sees (they differ over sparse files, prefixes and extensions). What could lead outside, or hide a description, makes no layer.
//! The archive's digest is checked by the engine while it flows. Never: follows a name in the archive.

use std::collections::BTreeSet;
use std::io::{self, Write};

use bytes::BufMut;
use cryostore_engine::archive::tar::{BLOCK, EntryType, Member, Span, TarReader};
use cryostore_engine::format::snapshot::SnapshotRecord;
use cryostore_engine::{Error, Kind, Monitor, Output, Repository, Result, export};
use serde_json::Value;

use super::digest::{Blob, Naming};
use super::source::{Family, Source};
use super::strip::{self, DESCRIPTION_LEN, DESCRIPTIONS, clean};
use crate::pod::text;

/// What becomes of the archive on its way.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// The name under which the runtime is to fetch the base image, instead of the archive's own.
    pub base: Option<String>,
    /// The name that it gives that image then, instead of the archive's own.
    pub base_name: Option<String>,
}

impl Changes {
    /// What has to change for any place. containerd gives the base image the name that the archive says, so an archive could put an image of its own in the place
    /// of another one; only names that the stored pod has stay.
    #[must_use]
    pub fn of(source: &Source) -> Self {
        let is_known = source.base_name.is_empty() || has_image(source, &source.base_name);
        let renames = source.family == Family::Containerd && !is_known;
        let id = source.record.id.to_string();
        Self {
            base: None,
            base_name: renames
                .then(|| format!("localhost/cryostore-base:{}", id.get(..12).unwrap_or(&id))),
        }
    }
}

/// Whether the pod that was stored with the archive has this image.
fn has_image(source: &Source, name: &str) -> bool {
    let lists = ["/spec/containers", "/spec/initContainers"];
    let pod = source.pod.as_ref();
    let lists = lists
        .iter()
        .filter_map(|list| pod?.pointer(list)?.as_array());
    lists
        .flatten()
        .any(|container| whole_name(text(container, "/image")) == whole_name(name))
}

/// As the CRI completes what a pod says.
fn whole_name(name: &str) -> String {
    let (path, digest) = name
        .split_once('@')
        .map_or((name, None), |(path, digest)| (path, Some(digest)));
    let first = path.split_once('/').map(|(first, _)| first);
    let mut out = match first {
        Some(host) if host == "localhost" || host.contains(['.', ':']) => path.to_owned(),
        Some(_) => format!("docker.io/{path}"),
        None => format!("docker.io/library/{path}"),
    };
    let has_tag = out
        .rsplit('/')
        .next()
        .is_some_and(|last| last.contains(':'));
    match digest {
        Some(digest) => out.push_str(&format!("@{digest}")),
        None if !has_tag => out.push_str(":latest"),
        None => {}
    }
    out
}

/// A layer that was written.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Its name: also its diffID, since it is not compressed.
    pub blob: Blob,
    /// What was taken out.
    pub stripped: Vec<String>,
}

/// Writes the layer.
pub fn write_layer(
    repo: &Repository,
    snapshot: &SnapshotRecord,
    changes: &Changes,
    sink: &mut (dyn Write + Send),
    monitor: &dyn Monitor,
) -> Result<Layer> {
    let mut filter = Filter::new(Naming::new(sink), changes);
    let exported = export(repo, snapshot, Output::Stream(&mut filter), monitor);
    // What the filter or the sink says is the cause; the engine only saw that it could not write.
    if let Some(e) = filter.failed.take() {
        return Err(e);
    }
    exported?;
    let (naming, stripped) = filter.finish()?;
    Ok(Layer {
        blob: naming.finish().1,
        stripped,
    })
}

/// Where the filter is.
#[derive(Debug)]
enum At {
    /// In a member that goes through, of so many bytes.
    Through(u64),
    /// In a description, of which these are the bytes so far.
    Inside(Box<Member>, Vec<u8>),
}

struct Filter<'c, W> {
    out: W,
    changes: &'c Changes,
    reader: TarReader,
    at: At,
    /// The descriptions that came.
    seen: BTreeSet<Vec<u8>>,
    stripped: Vec<String>,
    failed: Option<Error>,
}

/// Why no layer is made.
fn refused(name: &[u8], why: &str) -> io::Error {
    let text = format!(
        "the archive's member `{}` {why}: no runtime gets it",
        String::from_utf8_lossy(name)
    );
    io::Error::other(
        Error::new(Kind::Invalid, text).hint(
            "a runtime makes no such archive; --driver archive gives it as it is, to look at",
        ),
    )
}

impl<'c, W: Write> Filter<'c, W> {
    fn new(out: W, changes: &'c Changes) -> Self {
        Self {
            out,
            changes,
            reader: TarReader::new(),
            at: At::Through(0),
            seen: BTreeSet::new(),
            stripped: Vec::new(),
            failed: None,
        }
    }

    fn finish(mut self) -> Result<(W, Vec<String>)> {
        self.reader
            .finish()
            .map_err(|e| Error::new(Kind::Invalid, "the archive is no whole tar").because(e))?;
        // What follows an archive's end is not part of it.
        let ended = self.out.write_all(&[0; 2 * BLOCK]);
        ended.map_err(|e| Error::io("the layer", e))?;
        self.stripped.sort();
        self.stripped.dedup();
        Ok((self.out, self.stripped))
    }

    /// Keeps an error of ours that a sink had to wrap: its kind and its advice would be lost on the way through the engine.
    fn keep(&mut self, e: io::Error) -> io::Error {
        if !e.get_ref().is_some_and(|inner| inner.is::<Error>()) {
            return e;
        }
        let text = e.to_string();
        let inner = e.into_inner().and_then(|inner| inner.downcast().ok());
        self.failed = inner.map(|inner| *inner);
        io::Error::other(text)
    }

    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        loop {
            let span = self.reader.next(rest).map_err(|e| {
                io::Error::other(Error::new(Kind::Invalid, "the archive is no tar").because(e))
            })?;
            match span {
                None => return Ok(()),
                Some(Span::Meta(len)) => rest = &rest[len..],
                Some(Span::Member(member)) => self.begin(member)?,
                Some(Span::Data(len)) => {
                    let (these, after) = rest.split_at(len);
                    match &mut self.at {
                        At::Inside(_, body) => body.extend_from_slice(these),
                        At::Through(_) => self.out.write_all(these)?,
                    }
                    rest = after;
                }
                Some(Span::End) => match std::mem::replace(&mut self.at, At::Through(0)) {
                    At::Inside(member, body) => self.description(&member, &body)?,
                    At::Through(len) => self.out.write_all(&[0; BLOCK][..padding(len)])?,
                },
            }
        }
    }

    fn begin(&mut self, mut member: Box<Member>) -> io::Result<()> {
        let name = clean_name(&member.name).map_err(|why| refused(&member.name, why))?;
        if !matches!(member.kind, EntryType::File | EntryType::Directory) {
            return Err(refused(&member.name, "is neither a file nor a directory"));
        }
        let is_one = DESCRIPTIONS.iter().any(|known| known.as_bytes() == name);
        if is_one {
            if member.kind != EntryType::File {
                return Err(refused(&member.name, "is no file"));
            }
            if member.len > DESCRIPTION_LEN {
                return Err(refused(&member.name, "is longer than any description"));
            }
            if !self.seen.insert(name.clone()) {
                return Err(refused(&member.name, "comes twice"));
            }
        }
        member.name = name;
        if is_one {
            self.at = At::Inside(member, Vec::new());
            return Ok(());
        }
        // The root itself: it is there.
        if member.name.is_empty() {
            return Ok(());
        }
        self.at = At::Through(member.len);
        self.out.write_all(&header(&member, member.len)?)
    }

    fn description(&mut self, member: &Member, body: &[u8]) -> io::Result<()> {
        let mut json = strip::parse(body)
            .map_err(|e| refused(&member.name, &format!("is no description ({e})")))?;
        self.stripped.extend(clean(&mut json));
        if member.name == b"config.dump" {
            for (key, new) in [
                ("rootfsImageRef", &self.changes.base),
                ("rootfsImageName", &self.changes.base_name),
            ] {
                // Go reads a key in any letters; there is one at most.
                let mut values = json.as_object_mut().into_iter().flatten();
                let found = values
                    .find(|(known, _)| known.eq_ignore_ascii_case(key))
                    .map(|(_, value)| value);
                if let (Some(value), Some(new)) = (found, new) {
                    *value = Value::from(new.as_str());
                }
            }
        }
        let new = json.to_string().into_bytes();
        self.out.write_all(&header(member, new.len() as u64)?)?;
        self.out.write_all(&new)?;
        self.out.write_all(&[0; BLOCK][..padding(new.len() as u64)])
    }
}

/// As Go's path.Clean has it, which the runtimes use; why it may not be, else.
fn clean_name(name: &[u8]) -> std::result::Result<Vec<u8>, &'static str> {
    if name.first() == Some(&b'/') {
        return Err("begins at the root");
    }
    if name.contains(&0) {
        return Err("has a zero in its name");
    }
    let parts: Vec<&[u8]> = name
        .split(|b| *b == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .collect();
    if parts.iter().any(|part| *part == b"..") {
        return Err("leads outside");
    }
    // In a layer it takes away another file.
    if parts.iter().any(|part| part.starts_with(b".wh.")) {
        return Err("has the name of a whiteout");
    }
    Ok(parts.join(&b'/'))
}

/// Bytes that fill a member's last block.
fn padding(len: u64) -> usize {
    let over = usize::try_from(len % BLOCK as u64).unwrap_or(0);
    (BLOCK - over) % BLOCK
}

/// A ustar header (POSIX.1-1988) of a file or directory of root's.
fn header(member: &Member, len: u64) -> io::Result<[u8; BLOCK]> {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    let is_dir = member.kind == EntryType::Directory;
    let mut name = member.name.clone();
    if is_dir {
        name.push(b'/');
    }
    // 155 bytes of directories, a slash that is not written, and 100 bytes of name.
    let (prefix, rest) = split_name(&name).ok_or_else(|| refused(&name, "has too long a name"))?;
    put(0, rest);
    put(345, prefix);
    put(100, format!("{:07o}\0", member.mode & 0o777).as_bytes());
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    if len < 1 << 33 {
        put(124, format!("{len:011o}\0").as_bytes());
    } else {
        // Eleven octal digits end at 8 GiB; GNU's way, which Go reads, too.
        let mut field = vec![0x80, 0, 0, 0];
        field.put_u64(len);
        put(124, &field);
    }
    // Eleven octal digits: until the year 2242.
    let mtime = u64::try_from(member.mtime)
        .unwrap_or(0)
        .min(0o77_777_777_777);
    put(136, format!("{mtime:011o}\0").as_bytes());
    put(148, b"        ");
    put(156, if is_dir { b"5" } else { b"0" });
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(header)
}

fn split_name(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= 100 {
        return Some((&[], name));
    }
    let slashes = (0..name.len()).filter(|at| name[*at] == b'/');
    let mut ways = slashes.map(|at| (&name[..at], &name[at + 1..]));
    ways.find(|(prefix, rest)| prefix.len() <= 155 && (1..=100).contains(&rest.len()))
}

impl<W: Write> Write for Filter<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.take(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(e) => Err(self.keep(e)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &[u8], kind: EntryType, body: &[u8]) -> Vec<u8> {
        let described = Member {
            name: name.to_vec(),
            link: Vec::new(),
            kind,
            len: body.len() as u64,
            mode: 0o600,
            mtime: 7,
            offset: 0,
        };
        let mut out = header(&described, body.len() as u64).unwrap().to_vec();
        out.extend_from_slice(body);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
        out
    }

    fn tar(members: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut out: Vec<u8> = members
            .iter()
            .flat_map(|(name, body)| entry(name, EntryType::File, body))
            .collect();
        out.resize(out.len() + 2 * BLOCK, 0);
        out
    }

    /// The same header with another type flag and link.
    fn flagged(mut tar: Vec<u8>, flag: u8) -> Vec<u8> {
        tar[156] = flag;
        tar[157..168].copy_from_slice(b"/etc/shadow");
        tar[148..156].fill(b' ');
        let sum: u32 = tar[..BLOCK].iter().map(|b| u32::from(*b)).sum();
        tar[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        tar
    }

    fn filtered(tar: &[u8], piece: usize, changes: &Changes) -> (Vec<u8>, Vec<String>) {
        let mut filter = Filter::new(Vec::new(), changes);
        tar.chunks(piece)
            .for_each(|bytes| filter.write_all(bytes).unwrap());
        filter.finish().unwrap()
    }

    /// Why it is refused.
    fn refusal(tar: &[u8]) -> String {
        let changes = Changes::default();
        let mut filter = Filter::new(Vec::new(), &changes);
        filter.write_all(tar).unwrap_err();
        let e = filter.failed.take().unwrap();
        assert_eq!(e.kind(), Kind::Invalid);
        e.to_string()
    }

    #[test]
    fn an_archive_without_anything_dangerous_keeps_its_members_and_nothing_after_its_end() {
        let tar = tar(&[
            (b"checkpoint/pages-1.img", &[7; 5000]),
            (b"spec.dump", br#"{"annotations":{"a":"b"}}"#),
            (b"empty", b""),
        ]);
        let mut longer = tar.clone();
        longer.extend_from_slice(b"left over from a longer file");
        for piece in [1, 511, 512, 4096, 100_000] {
            let (out, stripped) = filtered(&longer, piece, &Changes::default());
            assert!(out == tar, "pieces of {piece}");
            assert!(stripped.is_empty());
        }
    }

    #[test]
    fn what_is_dangerous_goes_and_the_rest_stays_in_its_place() {
        let evil = br#"{"annotations":{"cdi.k8s.io/x":"vendor/gpu=all","keep":"1"}}"#;
        let before = tar(&[
            (b"checkpoint/a.img", b"aaa"),
            (b"././status.dump", evil),
            (b".//spec.dump/", evil),
            (b"deep/spec.dump", evil),
            (b"z", b"zzz"),
        ]);
        let good = br#"{"annotations":{"keep":"1"}}"#;
        let wanted = tar(&[
            (b"checkpoint/a.img", b"aaa"),
            (b"status.dump", good),
            (b"spec.dump", good),
            (b"deep/spec.dump", evil),
            (b"z", b"zzz"),
        ]);
        for piece in [1, 512, 100_000] {
            let (out, stripped) = filtered(&before, piece, &Changes::default());
            assert!(out == wanted, "pieces of {piece}");
            assert_eq!(stripped, ["cdi.k8s.io/x"]);
        }
    }

    #[test]
    fn another_name_of_the_base_image_is_written_into_the_configuration_alone() {
        let config = br#"{"rootfsImageName":"nginx:1","rootfsimageref":"sha256:00"}"#;
        let before = tar(&[(b"config.dump", config), (b"spec.dump", config)]);
        let changes = Changes {
            base: Some("localhost:5/base@sha256:00".to_owned()),
            base_name: Some("localhost/ours:1".to_owned()),
        };
        let (out, _) = filtered(&before, 700, &changes);
        let new = br#"{"rootfsImageName":"localhost/ours:1","rootfsimageref":"localhost:5/base@sha256:00"}"#;
        assert!(out == tar(&[(b"config.dump", new), (b"spec.dump", config)]));
    }

    #[test]
    fn an_archive_gives_the_base_image_no_name_that_the_stored_pod_does_not_have() {
        let mut source = crate::restore::preflight::tests::source();
        source.base_name = "docker.io/library/nginx:latest".to_owned();
        let ours = Some("localhost/cryostore-base:3f9a2b1c0000".to_owned());
        assert_eq!(Changes::of(&source).base_name, ours);
        for (image, stays) in [
            ("nginx", true),
            ("library/nginx:latest", true),
            ("nginx:1", false),
            ("localhost/nginx", false),
        ] {
            source.pod = Some(serde_json::json!({"spec": {"containers": [{"image": image}]}}));
            assert_eq!(Changes::of(&source).base_name.is_none(), stays, "{image}");
        }
    }

    #[test]
    fn a_name_that_leads_outside_or_hides_a_description_makes_no_layer() {
        for (name, why) in [
            (b"/status.dump".as_slice(), "begins at the root"),
            (b"x/../status.dump", "leads outside"),
            (b"../x", "leads outside"),
            (b"checkpoint/.wh.a", "whiteout"),
        ] {
            let said = refusal(&tar(&[(name, b"{}")]));
            assert!(said.contains(why), "{said}");
        }
        let said = refusal(&tar(&[(b"status.dump", b"{}"), (b"./status.dump", b"{}")]));
        assert!(said.contains("comes twice"), "{said}");
        let said = refusal(&entry(b"status.dump", EntryType::Directory, b""));
        assert!(said.contains("is no file"), "{said}");
    }

    #[test]
    fn links_devices_pipes_and_sparse_files_make_no_layer() {
        for flag in [b'1', b'2', b'3', b'4', b'6', b'S', b'D'] {
            let said = refusal(&flagged(tar(&[(b"container.log", b"")]), flag));
            assert!(said.contains("neither"), "{said}");
        }
    }

    #[test]
    fn a_description_that_is_none_makes_no_layer() {
        let long = vec![b' '; usize::try_from(DESCRIPTION_LEN).unwrap() + 1];
        for (body, why) in [
            (b"no JSON at all".as_slice(), "is no description"),
            (br#"{"a":{},"a":{}}"#, "a key comes twice"),
            (&long, "is longer"),
        ] {
            let said = refusal(&tar(&[(b"config.dump", body)]));
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn what_an_extension_says_of_a_sparse_file_does_not_reach_the_runtime() {
        let evil = br#"{"annotations":{"cdi.k8s.io/x":"y"}}"#;
        let records =
            b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n33 GNU.sparse.name=status.dump\n";
        let extension = flagged(entry(b"x", EntryType::File, records), b'x');
        let before = [extension, tar(&[(b"harmless", evil)])].concat();
        let (out, _) = filtered(&before, 700, &Changes::default());
        assert!(out == tar(&[(b"harmless", evil)]));
    }

    #[test]
    fn long_names_and_large_files_are_what_they_were() {
        let name = [vec![b'd'; 120], b"/".to_vec(), vec![b'f'; 90]].concat();
        let before = tar(&[(&name, b"aaa")]);
        assert!(filtered(&before, 700, &Changes::default()).0 == before);
        let mut reader = TarReader::new();
        let large = Member {
            name: b"pages-1.img".to_vec(),
            link: Vec::new(),
            kind: EntryType::File,
            len: 9 << 30,
            mode: 0o600,
            mtime: 7,
            offset: 0,
        };
        let header = header(&large, large.len).unwrap();
        assert_eq!(reader.next(&header).unwrap(), Some(Span::Meta(BLOCK)));
        assert_eq!(
            reader.next(&[]).unwrap(),
            Some(Span::Member(Box::new(large)))
        );
    }

    #[test]
    fn a_tar_without_an_end_gets_one_and_a_cut_one_is_refused() {
        let whole = tar(&[(b"a", b"aaa")]);
        let (out, _) = filtered(&whole[..1024], 100, &Changes::default());
        assert!(out == whole);
        let changes = Changes::default();
        let mut filter = Filter::new(Vec::new(), &changes);
        filter.write_all(&whole[..514]).unwrap();
        assert!(filter.finish().is_err());
    }
}
