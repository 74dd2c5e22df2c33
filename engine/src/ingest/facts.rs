//! Owns what an archive tells of itself: CRIU's images and the engines' descriptions, as far as they help to store it.
//!
//! Always: a help, not a judge. What cannot be understood becomes a warning, and its bytes are stored all the same. Never: keeps more than
//! [`limits::IMAGES_TOTAL`] bytes; authorises anything.

use std::collections::{BTreeMap, HashMap, HashSet};

use cryostore_format::manifest::{AddressRun, MapOf, PageMap, RunPlace, StreamIndex};
use cryostore_format::snapshot::{Identity, Producer};

use super::stream::PageSpec;
use crate::criu::{
    Arch, Core, ImageName, Inventory, MmImage, Pagemap, PagesFile, image_name, page_size_of,
    parse_pstree,
};
use crate::limits;

/// CRIU's images of one directory.
#[derive(Debug, Default)]
struct ImageDir {
    inventory: Option<Inventory>,
    /// Pids of the process tree.
    live: Option<HashSet<u32>>,
    maps: Vec<(MapOf, Pagemap)>,
    mms: HashMap<u32, MmImage>,
    arch: Option<Arch>,
    /// Page images: bytes and stream.
    pages: BTreeMap<u32, (u64, Option<StreamIndex>)>,
    has_parent_link: bool,
}

/// What is known of an archive so far.
#[derive(Debug, Default)]
pub(super) struct Facts {
    dirs: BTreeMap<Vec<u8>, ImageDir>,
    spec: Option<serde_json::Value>,
    config: Option<serde_json::Value>,
    criu_version: String,
    has_status: bool,
    inventory_mtime: Option<i64>,
    kept: usize,
    warnings: Vec<String>,
    seen: HashSet<Vec<u8>>,
}

fn split(name: &[u8]) -> (&[u8], &[u8]) {
    match name.iter().rposition(|b| *b == b'/') {
        Some(at) => (&name[..at], &name[at + 1..]),
        None => (&[], name),
    }
}

fn show(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

impl Facts {
    /// Adds a warning for the snapshot's record.
    pub(super) fn warn(&mut self, text: impl Into<String>) {
        // The first ones tell; an archive of a million strange members must not fill the memory.
        if self.warnings.len() <= limits::WARNINGS {
            let mut text: String = text.into();
            if let Some((at, _)) = text.char_indices().nth(limits::WARNING_LEN) {
                text.truncate(at);
                text.push('…');
            }
            self.warnings.push(text);
        }
    }

    /// How many of a member's first bytes [`Self::learn`] wants to see; 0: none.
    pub(super) fn wants(&mut self, name: &[u8], len: u64) -> usize {
        if self.seen.contains(name) {
            return 0;
        }
        if split(name).1 == b"dump.log" {
            return usize::try_from(len)
                .unwrap_or(usize::MAX)
                .min(limits::LOG_HEAD);
        }
        let wanted = self.looks_at(name);
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if wanted == 0 {
            return 0;
        }
        if len > wanted || self.kept + len > limits::IMAGES_TOTAL {
            self.warn(format!(
                "{} has {len} bytes and is not looked at; it is stored as it is",
                show(name)
            ));
            return 0;
        }
        len
    }

    /// Bytes that a member with this name may have at most for [`Self::learn`] to want it; 0: it is of no use.
    pub(super) fn looks_at(&self, name: &[u8]) -> usize {
        let (dir, file) = split(name);
        let image = matches!(
            image_name(file),
            ImageName::Inventory
                | ImageName::Pstree
                | ImageName::Pagemap(_)
                | ImageName::PagemapShmem(_)
                | ImageName::Mm(_)
                | ImageName::Core(_)
        );
        let description = dir.is_empty() && matches!(file, b"spec.dump" | b"config.dump");
        match (image, description) {
            (true, _) => limits::IMAGE_LEN,
            (_, true) => limits::DESCRIPTION_LEN,
            _ => 0,
        }
    }

    /// A member is there, whatever it holds.
    pub(super) fn member(&mut self, name: &[u8], len: u64, mtime: i64) {
        let (dir, file) = split(name);
        match image_name(file) {
            ImageName::Pages(id) => {
                self.dir(dir).pages.entry(id).or_insert((len, None)).0 = len;
            }
            ImageName::Inventory => self.inventory_mtime = Some(mtime),
            _ if file == b"parent" => self.dir(dir).has_parent_link = true,
            _ if dir.is_empty() && file == b"status.dump" => self.has_status = true,
            _ => {}
        }
    }

    fn dir(&mut self, dir: &[u8]) -> &mut ImageDir {
        self.dirs.entry(dir.to_vec()).or_default()
    }

    /// Looks at a member's content (or its first bytes).
    pub(super) fn learn(&mut self, name: &[u8], bytes: &[u8]) {
        if !self.seen.insert(name.to_vec()) {
            return;
        }
        self.kept += bytes.len();
        let (dir, file) = split(name);
        let learned =
            match image_name(file) {
                ImageName::Inventory => Inventory::parse(bytes)
                    .map(|inventory| self.dir(dir).inventory = Some(inventory)),
                ImageName::Pstree => parse_pstree(bytes).map(|tree| {
                    self.dir(dir).live = Some(tree.iter().map(|process| process.pid).collect());
                }),
                ImageName::Pagemap(pid) => Pagemap::parse(bytes)
                    .map(|map| self.dir(dir).maps.push((MapOf::Process(pid), map))),
                ImageName::PagemapShmem(id) => Pagemap::parse(bytes)
                    .map(|map| self.dir(dir).maps.push((MapOf::SharedMemory(id), map))),
                ImageName::Mm(pid) => MmImage::parse(bytes).map(|mm| {
                    self.dir(dir).mms.insert(pid, mm);
                }),
                ImageName::Core(_) => Core::parse(bytes).map(|core| {
                    let dir = self.dir(dir);
                    dir.arch = dir.arch.or(core.arch);
                }),
                _ => {
                    self.learn_description(file, bytes);
                    Ok(())
                }
            };
        if let Err(e) = learned {
            self.warn(format!("{}: {e}; it is stored as it is", show(name)));
        }
    }

    fn learn_description(&mut self, file: &[u8], bytes: &[u8]) {
        if file == b"dump.log" {
            let text = String::from_utf8_lossy(bytes);
            let version = text.lines().find_map(|line| line.split_once("Version: "));
            if let Some((_, rest)) = version {
                self.criu_version = rest
                    .split_whitespace()
                    .next()
                    .unwrap_or_default()
                    .chars()
                    .take(40)
                    .collect();
            }
            return;
        }
        match serde_json::from_slice(bytes) {
            Ok(json) if file == b"spec.dump" => self.spec = Some(json),
            Ok(json) => self.config = Some(json),
            Err(e) => self.warn(format!(
                "{} is no JSON: {e}; it is stored as it is",
                show(file)
            )),
        }
    }

    /// How the page image `name` is to be cut; none: like any other bytes.
    pub(super) fn page_image(&mut self, name: &[u8], len: u64) -> Option<PageSpec> {
        let (dir, file) = split(name);
        match image_name(file) {
            ImageName::Pages(id) => self.pages(dir, id, len),
            ImageName::AmdgpuPages => {
                let page_size = self.page_size(dir, None);
                // Every file of the plugin begins with its size, 8 bytes; buffer objects follow.
                Some(PageSpec {
                    page_size,
                    phase: 8,
                    of: None,
                    runs: Vec::new(),
                })
            }
            _ => None,
        }
    }

    fn pages(&mut self, dir: &[u8], id: u32, len: u64) -> Option<PageSpec> {
        let images = self.dirs.get(dir);
        if let Some(inventory) = images.and_then(|images| images.inventory.as_ref())
            && !inventory.pages_are_raw()
        {
            let version = inventory.img_version;
            self.warn(format!(
                "{}/pages-{id}.img is compressed by CRIU or of an unknown kind (img_version {version}); it is stored as it is",
                show(dir)
            ));
            return None;
        }
        let Some(images) = images else {
            return Some(PageSpec {
                page_size: 4096,
                phase: 0,
                of: None,
                runs: Vec::new(),
            });
        };
        let of_image: Vec<_> = images
            .maps
            .iter()
            .filter(|(_, map)| map.pages_id == id)
            .collect();
        if of_image
            .iter()
            .any(|(of, map)| !map.is_plain() && images.is_live(*of))
        {
            self.warn(format!(
                "{}/pages-{id}.img is described in a way that is not known; it is stored as it is",
                show(dir)
            ));
            return None;
        }
        let live = of_image.iter().find(|(of, _)| images.is_live(*of));
        let present = live.and_then(|(_, map)| map.present_pages().ok());
        let page_size = self.page_size(
            dir,
            present.map(|present_pages| PagesFile { len, present_pages }),
        );
        let images = self.dirs.get(dir)?;
        let mut of_image = images
            .maps
            .iter()
            .filter(|(_, map)| map.pages_id == id && map.is_plain());
        let fits = |map: &Pagemap| {
            map.present_bytes(page_size.into())
                .is_ok_and(|bytes| bytes == len)
        };
        // Podman leaves page maps of processes that are gone: the live one counts, then one that fits.
        let chosen = of_image
            .clone()
            .find(|(of, map)| images.is_live(*of) && fits(map))
            .or_else(|| {
                of_image
                    .clone()
                    .find(|(of, _)| images.is_live(*of) && images.live.is_some())
            })
            .or_else(|| of_image.find(|(_, map)| fits(map)));
        let runs = chosen.and_then(|(_, map)| {
            let runs = map.runs().ok()?;
            Some(
                runs.map(|run| (run.vaddr / u64::from(page_size), run.pages))
                    .collect(),
            )
        });
        Some(PageSpec {
            page_size,
            phase: 0,
            of: chosen.map(|(of, _)| *of),
            runs: runs.unwrap_or_default(),
        })
    }

    fn page_size(&self, dir: &[u8], file: Option<PagesFile>) -> u32 {
        let mms = self.dirs.get(dir).into_iter().flat_map(|images| {
            images
                .mms
                .iter()
                .filter(|(pid, _)| images.is_live(MapOf::Process(**pid)))
                .map(|(_, mm)| mm)
        });
        u32::try_from(page_size_of(mms, file).bytes).unwrap_or(4096)
    }

    /// A page image became this stream.
    pub(super) fn stored(&mut self, name: &[u8], len: u64, stream: StreamIndex) {
        let (dir, file) = split(name);
        if let ImageName::Pages(id) = image_name(file) {
            self.dir(dir).pages.insert(id, (len, Some(stream)));
        }
    }

    /// The page maps for the manifest; what does not fit together becomes a warning. `page_size_of` tells the page size of a stream.
    pub(super) fn maps(&mut self, page_size_of: impl Fn(StreamIndex) -> u32) -> Vec<PageMap> {
        let mut out = Vec::new();
        let mut warnings = Vec::new();
        for (dir, images) in &self.dirs {
            let path = |of: MapOf| match of {
                MapOf::Process(pid) => format!("{}/pagemap-{pid}.img", show(dir)),
                MapOf::SharedMemory(id) => format!("{}/pagemap-shmem-{id}.img", show(dir)),
            };
            for (of, map) in &images.maps {
                let stale = !images.is_live(*of);
                let name = path(*of);
                let name = name.trim_start_matches('/');
                let image = images.pages.get(&map.pages_id);
                let stream = image.and_then(|(_, stream)| *stream);
                let page_size = stream.map_or(0, &page_size_of);
                let page_size = if page_size == 0 {
                    self.page_size(dir, None)
                } else {
                    page_size
                };
                if !stale {
                    images.complain(
                        name,
                        map,
                        image.map(|(len, _)| *len),
                        page_size.into(),
                        &mut warnings,
                    );
                }
                // No process has 2^52 pages; a manifest's numbers could not hold them.
                let too_many = map.entries.iter().any(|entry| entry.nr_pages >= 1 << 52);
                if too_many
                    || map.present_pages().is_err()
                    || map.parent_pages().is_err()
                    || !map.is_plain()
                {
                    continue;
                }
                let runs = map.entries.iter().filter_map(|entry| {
                    let place = match (entry.flags.has_bytes(), entry.flags.in_parent()) {
                        (true, _) => RunPlace::Image,
                        (false, true) => RunPlace::Parent,
                        (false, false) => return None,
                    };
                    Some(AddressRun {
                        page_number: entry.vaddr / u64::from(page_size),
                        pages: entry.nr_pages,
                        place,
                    })
                });
                out.push(PageMap {
                    of: *of,
                    stale,
                    stream,
                    page_size,
                    runs: runs.collect(),
                });
            }
        }
        self.warnings.append(&mut warnings);
        out.sort_by_key(|map| (map.stale, map.of));
        out
    }

    /// True if a directory says that it has a parent.
    pub(super) fn has_parent_link(&self) -> bool {
        self.dirs.values().any(|images| images.has_parent_link)
    }

    /// The warnings so far.
    pub(super) fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// Which container it was, as the descriptions say.
    pub(super) fn identity(&self) -> Identity {
        let annotation = |key: &str| text(self.spec.as_ref(), &["annotations", key]);
        let config = |key: &str| text(self.config.as_ref(), &[key]);
        let first = |choices: &[String]| {
            choices
                .iter()
                .find(|text| !text.is_empty())
                .cloned()
                .unwrap_or_default()
        };
        Identity {
            namespace: first(&[
                annotation("io.kubernetes.cri.sandbox-namespace"),
                annotation("io.kubernetes.pod.namespace"),
            ]),
            pod: first(&[
                annotation("io.kubernetes.cri.sandbox-name"),
                annotation("io.kubernetes.pod.name"),
            ]),
            container: first(&[
                annotation("io.kubernetes.cri.container-name"),
                annotation("io.kubernetes.container.name"),
                config("name"),
            ]),
            pod_uid: first(&[
                annotation("io.kubernetes.cri.sandbox-uid"),
                annotation("io.kubernetes.pod.uid"),
            ]),
            node: String::new(),
            container_id: config("id"),
            image: first(&[
                config("rootfsImageName"),
                annotation("io.kubernetes.cri.image-name"),
            ]),
        }
    }

    /// What made the checkpoint.
    pub(super) fn producer(&self, page_size: Option<u64>) -> Producer {
        let annotations = self.spec.as_ref().and_then(|spec| spec.get("annotations"));
        let engine = match text(self.spec.as_ref(), &["annotations", "io.container.manager"])
            .as_str()
        {
            "libpod" => "podman",
            "cri-o" => "cri-o",
            _ if annotations.is_some_and(|a| a.get("io.kubernetes.cri.sandbox-id").is_some())
                || self.has_status =>
            {
                "containerd"
            }
            _ if self.dirs.values().any(|images| images.inventory.is_some()) => "criu",
            _ => "",
        };
        let inventory = self
            .dirs
            .values()
            .find_map(|images| images.inventory.as_ref());
        Producer {
            engine: engine.to_owned(),
            runtime: text(self.config.as_ref(), &["runtime"]),
            criu_version: self.criu_version.clone(),
            criu_plugins: inventory
                .map(|inventory| inventory.plugins.iter().take(32).cloned().collect())
                .unwrap_or_default(),
            img_version: inventory.map(|inventory| inventory.img_version),
            arch: self
                .dirs
                .values()
                .find_map(|images| images.arch)
                .map(arch_name)
                .unwrap_or_default(),
            page_size,
        }
    }

    /// When the checkpoint was taken: as the engine says, else when CRIU wrote its inventory.
    pub(super) fn dumped(&self) -> Option<String> {
        let said = text(self.config.as_ref(), &["checkpointedTime"]);
        let said = said
            .parse::<jiff::Timestamp>()
            .ok()
            .filter(|time| time.as_second() > 0);
        let written = || {
            self.inventory_mtime
                .filter(|t| *t > 0)
                .and_then(|t| jiff::Timestamp::from_second(t).ok())
        };
        said.or_else(written).map(|time| time.to_string())
    }

    /// True if there is anything of CRIU's.
    pub(super) fn is_checkpoint(&self) -> bool {
        self.dirs.values().any(|images| {
            images.inventory.is_some() || !images.maps.is_empty() || !images.pages.is_empty()
        })
    }
}

fn arch_name(arch: Arch) -> String {
    match arch {
        Arch::X86_64 => "x86_64".to_owned(),
        Arch::Aarch64 => "aarch64".to_owned(),
        Arch::Arm => "arm".to_owned(),
        Arch::Ppc64 => "ppc64".to_owned(),
        Arch::S390 => "s390x".to_owned(),
        Arch::Mips => "mips".to_owned(),
        Arch::Loongarch64 => "loongarch64".to_owned(),
        Arch::Riscv64 => "riscv64".to_owned(),
        Arch::Unknown(n) => format!("unknown ({n})"),
    }
}

/// A string within JSON, at most 256 characters of it; empty if it is not there.
fn text(json: Option<&serde_json::Value>, path: &[&str]) -> String {
    let found = json.and_then(|json| path.iter().try_fold(json, |value, key| value.get(key)));
    found
        .and_then(serde_json::Value::as_str)
        .unwrap_or_default()
        .chars()
        .take(256)
        .collect()
}

impl ImageDir {
    /// A process of `pstree.img`, or shared memory; all of them while there is no `pstree.img`.
    fn is_live(&self, of: MapOf) -> bool {
        match (of, &self.live) {
            (MapOf::Process(pid), Some(live)) => live.contains(&pid),
            _ => true,
        }
    }

    /// Says what of a live page map does not fit.
    fn complain(
        &self,
        name: &str,
        map: &Pagemap,
        image_len: Option<u64>,
        page_size: u64,
        out: &mut Vec<String>,
    ) {
        let claimed = match map.present_bytes(page_size) {
            Ok(claimed) => claimed,
            Err(e) => {
                out.push(format!("{name}: {e}; it is stored as it is"));
                return;
            }
        };
        match image_len {
            None if claimed > 0 => out.push(format!("{name} names pages-{}.img, which is not in the archive", map.pages_id)),
            Some(len) if len != claimed && map.is_plain() && !self.is_compressed() => out.push(format!(
                "{name} describes {claimed} bytes, and pages-{}.img has {len}; it is stored as it is",
                map.pages_id
            )),
            _ => {}
        }
        let irregular = map.irregularities(page_size);
        if let Some(first) = irregular.first() {
            out.push(format!(
                "{name}: {} irregular entries, the first: {first}",
                irregular.len()
            ));
        }
    }

    fn is_compressed(&self) -> bool {
        self.inventory
            .as_ref()
            .is_some_and(|inventory| !inventory.pages_are_raw())
    }
}
