//! `inventory.img`: what holds for the whole dump.
//!
//! Owns the answer whether page images are raw pages. Always: an image version or a compression that we do not know
//! means "not raw". Never: claims a CRIU version; the inventory does not hold one.
//!
//! Fields from `images/inventory.proto` of CRIU 4.2; 15 and 16 are from the unreleased page compression.

use super::error::CriuError;
use super::image::{magic, single};
use super::tasks::{self, TaskIds};

const WHAT: &str = "inventory entry";

/// The fields of the inventory that we use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inventory {
    /// 1: no common magic; 2: every release up to 4.2; 3: pages may be compressed.
    pub img_version: u32,
    /// Whether `fdinfo` images are named by id, not by pid.
    pub fdinfo_per_id: Option<bool>,
    /// Namespaces of the process that dumped, as in [`TaskIds`].
    pub root_namespaces: Vec<(&'static str, u32)>,
    /// 0 none, 1 SELinux, 2 AppArmor.
    pub lsmtype: Option<u32>,
    /// Uptime of the machine at the dump, by which CRIU notices a reused pid. With memory tracking only.
    pub dump_uptime: Option<u64>,
    /// Set by a pre-dump only: 1 splice, 2 read.
    pub pre_dump_mode: Option<u32>,
    /// Whether TCP connections were closed, not saved.
    pub tcp_close: Option<bool>,
    /// How the network was locked, by CRIU's inner numbers: 0 iptables, 1 nftables, 2 not at all.
    pub network_lock_method: Option<u32>,
    /// Plugins without which CRIU refuses to restore, such as `cuda_plugin`. Since 4.1.
    pub plugins: Vec<String>,
    /// The id that CRIU gave to the dumping run.
    pub dump_criu_run_id: Option<String>,
    /// Page compression: none or 0 raw, 1 each page, 2 regions.
    pub compress: Option<u32>,
    /// Bytes in a compressed region.
    pub compress_region_size: Option<u32>,
}

impl Inventory {
    /// Reads `inventory.img`.
    pub fn parse(bytes: &[u8]) -> Result<Self, CriuError> {
        let record = single(bytes, magic::INVENTORY, WHAT)?;
        let mut inventory = Self::default();
        let mut img_version = None;
        for field in record.fields(WHAT) {
            let field = field?;
            match field.number {
                1 => img_version = Some(field.u32()?),
                2 => inventory.fdinfo_per_id = Some(field.bool()?),
                3 => {
                    let ids = TaskIds::read(field.message(tasks::WHAT)?)?;
                    inventory.root_namespaces = ids.namespaces;
                }
                6 => inventory.lsmtype = Some(field.u32()?),
                8 => inventory.dump_uptime = Some(field.u64()?),
                9 => inventory.pre_dump_mode = Some(field.u32()?),
                10 => inventory.tcp_close = Some(field.bool()?),
                11 => inventory.network_lock_method = Some(field.u32()?),
                12 => {
                    // A message of its own, so that "no plugins" differs from "not recorded"; 12 again inside.
                    for inner in field.message("inventory plugins entry")? {
                        let inner = inner?;
                        if inner.number == 12 {
                            inventory.plugins.push(inner.text()?);
                        }
                    }
                }
                13 => inventory.dump_criu_run_id = Some(field.text()?),
                15 => inventory.compress = Some(field.u32()?),
                16 => inventory.compress_region_size = Some(field.u32()?),
                _ => {}
            }
        }
        inventory.img_version = img_version.ok_or(CriuError::Missing {
            what: WHAT,
            offset: record.offset,
            number: 1,
            name: "img_version",
        })?;
        Ok(inventory)
    }

    /// Whether page images hold the bare pages of their pagemap, one after the other.
    pub fn pages_are_raw(&self) -> bool {
        matches!(self.img_version, 1 | 2) && self.compress.unwrap_or(0) == 0
    }

    /// Whether this is a pre-dump: memory only, of use as the parent of a later dump.
    pub fn is_pre_dump(&self) -> bool {
        self.pre_dump_mode.is_some()
    }
}
