//! Owns driver 3's half on the node: the archive becomes an image in containerd's namespace of the kubelet, unpacked and pinned.
//!
//! Always: what is made on the way is kept by a lease that ends by itself within a day, so that a crash leaves nothing for long; the image has a name of its own for
//! each pod, and keeps its content, its layer and what was unpacked of it. Never: creates, starts or ends a container: that is the kubelet's.
//!
//! containerd 2.1 to 2.3 know a checkpoint by an annotation of the image's target blob, take the first layer's snapshot by its chain id (so the image has to be unpacked
//! when the container is created), and read config.dump, spec.dump and status.dump from it (internal/cri/server/container_checkpoint_linux.go).

mod api;
mod base;
mod grpc;
mod proto;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use cryostore_engine::env::Env;
use cryostore_engine::{Deadline, Error, Kind, Monitor, Repository, Result, Silent};

use self::api::{Client, Descriptor, label};
pub use self::base::NodeContent;
use super::layer::{Changes, write_layer};
use super::oci::{Image, LAYER_TYPE, MANIFEST_TYPE};
use super::registry::Registry;
use super::source::Source;
use crate::pod::text;

/// 24 h: no import takes longer, and what a crash left behind then goes by itself.
const LEASE: Duration = Duration::from_secs(24 * 3600);
/// The CRI hears of a new image by an event, within milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);
/// 4 MiB: what registries and runtimes take at most for a manifest.
const MANIFEST_LEN: u64 = 4 << 20;
/// What is tidied up after a failure is the matter of a moment, or waits for the lease's end.
const TIDYING: Duration = Duration::from_secs(30);
/// 3 s: its answer comes within milliseconds, and a plan is made without it, too.
const ASKING: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Where containerd is, and how it unpacks.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its socket.
    pub socket: PathBuf,
    /// The snapshotter that the CRI uses.
    pub snapshotter: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            socket: PathBuf::from("/run/containerd/containerd.sock"),
            snapshotter: "overlayfs".to_owned(),
        }
    }
}

/// The label of images that were made here.
const SNAPSHOT: &str = "cryostore/snapshot";
/// The label with media type and digest of the base image that the loopback registry gives for an image: so it is known after a restart, too.
const BASE: &str = "cryostore/base";
/// How the names of images for pods begin.
const NAMES: &str = "localhost/cryostore/";

/// The name of the image for a pod.
#[must_use]
pub fn image_name(namespace: &str, pod: &str, snapshot: &str) -> String {
    format!(
        "{NAMES}{namespace}/{pod}:{}",
        snapshot.get(..12).unwrap_or(snapshot)
    )
}

/// An image that was made for a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// Its name.
    pub image: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// When it was made, in seconds since 1970.
    pub made_at: u64,
    /// Media type and digest of the base image that the loopback registry has to give for it; empty: none.
    pub base: String,
}

impl Made {
    fn of(image: String, made_at: u64, base: String) -> Option<Self> {
        let (namespace, rest) = image.strip_prefix(NAMES)?.split_once('/')?;
        let (pod, _) = rest.split_once(':')?;
        let (namespace, pod) = (namespace.to_owned(), pod.to_owned());
        Some(Self {
            image,
            namespace,
            pod,
            made_at,
            base,
        })
    }
}

/// The images that were made for pods here. Those whose pods are gone are to be cleaned up, but for young ones: their pods may not have been made yet.
pub fn made(settings: &Settings, monitor: &dyn Monitor) -> Result<Vec<Made>> {
    let client = Client::connect(&settings.socket, monitor)?;
    let images = client.images_with(SNAPSHOT, BASE)?;
    let made = images
        .into_iter()
        .filter_map(|(image, made_at, base)| Made::of(image, made_at, base));
    Ok(made.collect())
}

/// What the registry is to give: all that images stand on which were made here and are still there. Also after a restart: a restored container that is created
/// again fetches its base image again.
pub fn admit(settings: &Settings, registry: &Registry, monitor: &dyn Monitor) -> Result<()> {
    let client = Client::connect(&settings.socket, monitor)?;
    let mut bases: Vec<String> = made(settings, monitor)?
        .into_iter()
        .map(|one| one.base)
        .collect();
    bases.sort();
    bases.dedup();
    let mut all = Vec::new();
    for base in bases {
        if let Some((media_type, digest)) = base.split_once(' ') {
            all.extend(base::blobs_at(&client, media_type, digest)?);
        }
    }
    registry.admit_only(&all);
    Ok(())
}

/// An image that a pod can be made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// Its name.
    pub image: String,
    /// Its digest.
    pub digest: String,
    /// Bytes of the layer.
    pub bytes: u64,
    /// What was taken out of the archive's descriptions.
    pub stripped: Vec<String>,
    /// The name under which the loopback registry has to give the base image whenever the container is created; none: the runtime fetches it under its own.
    pub base: Option<String>,
}

/// Makes the image `name`, which is there for the kubelet when this returns. `registry` gives the base image, if all of it is here.
pub fn prepare(
    repo: &Repository,
    source: &Source,
    registry: Option<&Registry>,
    settings: &Settings,
    name: &str,
    env: &dyn Env,
    monitor: &dyn Monitor,
) -> Result<Prepared> {
    if [&source.base_ref, &source.base_name]
        .iter()
        .any(|base| base.starts_with(NAMES))
    {
        return Err(Error::new(
            Kind::Denied,
            "the archive names an image of a restore as its base, which is the memory of a container",
        )
        .hint("the archive was changed: take another checkpoint"));
    }
    let mut client = Client::connect(&settings.socket, monitor)?;
    let mut base_label = String::new();
    let mut changes = Changes::of(source);
    if let Some(registry) = registry
        && let Some(blobs) = base::blobs_of(&client, source)?
        && let Some(image) = blobs.first()
    {
        changes.base = Some(registry.reference(&image.blob.digest));
        base_label = format!("{} {}", image.media_type, image.blob.digest);
        registry.admit(&blobs);
    }
    // 64 bits tell the imports of a node apart.
    let nonce = hex::encode(&env.random()[..8]);
    let lease = format!("cryostore-{nonce}");
    let until = env.now() + LEASE;
    let labels = vec![label("containerd.io/gc.expire", until.to_string())];
    client.create_lease(&lease, &labels)?;
    client.use_lease(Some(lease.clone()));
    let made = import(
        &client,
        repo,
        source,
        &changes,
        &base_label,
        settings,
        name,
        &nonce,
        monitor,
    );
    // The image keeps it all now; of what failed, nothing is to stay, also where it failed since the user wants to stop.
    let tidying = Deadline::after(TIDYING, &Silent, env);
    let ended =
        Client::connect(&settings.socket, &tidying).and_then(|client| client.delete_lease(&lease));
    let prepared = made?;
    ended?;
    seen(&client, name, monitor)?;
    Ok(prepared)
}

#[expect(
    clippy::too_many_arguments,
    reason = "the inside of the function above, cut out so that the lease ends however this does"
)]
fn import(
    client: &Client<'_>,
    repo: &Repository,
    source: &Source,
    changes: &Changes,
    base: &str,
    settings: &Settings,
    name: &str,
    nonce: &str,
    monitor: &dyn Monitor,
) -> Result<Prepared> {
    let upload_name = format!("cryostore-layer-{nonce}");
    let mut upload = client.upload(&upload_name)?;
    let written = write_layer(repo, &source.record, changes, &mut upload, monitor);
    let layer = match written {
        Ok(layer) => layer,
        Err(e) => {
            drop(upload);
            // The reason counts, not whether the tidying went well: the lease ends it, too.
            let _ = client.abort(&upload_name);
            return Err(e);
        }
    };
    upload.commit(&layer.blob, &Vec::new())?;
    let image = Image::new(source, &layer, name);
    // One layer: its chain id is its diffID.
    let chain = &layer.blob.digest;
    let snapshotter = &settings.snapshotter;
    let keeps = |what: &str, name: &str| label(format!("containerd.io/gc.ref.{what}"), name);
    client.put(
        &format!("cryostore-config-{nonce}"),
        &image.config,
        &vec![keeps(&format!("snapshot.{snapshotter}"), chain)],
    )?;
    client.put(
        &format!("cryostore-manifest-{nonce}"),
        &image.manifest,
        &vec![
            keeps("content.config", &image.config_blob.digest),
            keeps("content.l.0", &layer.blob.digest),
        ],
    )?;
    let packed = Descriptor {
        media_type: LAYER_TYPE.to_owned(),
        blob: layer.blob.clone(),
    };
    let key = format!("extract-cryostore-{nonce} {chain}");
    client.unpack(snapshotter, &key, chain, &packed)?;
    let target = Descriptor {
        media_type: MANIFEST_TYPE.to_owned(),
        blob: image.manifest_blob.clone(),
    };
    // Managed: the CRI shows it. Pinned: the kubelet's garbage collection, for which no container uses it (a restored one shows its base image), leaves it.
    let mut labels = vec![
        label("io.cri-containerd.image", "managed"),
        label("io.cri-containerd.pinned", "pinned"),
        label(SNAPSHOT, source.record.id.to_string()),
    ];
    if !base.is_empty() {
        labels.push(label(BASE, base));
    }
    // containerd's restore looks it up by its id, which the CRI makes a name only of what it pulled itself. First: what has the name is complete.
    for name in [image.config_blob.digest.as_str(), name] {
        client.create_image(name, &target, &labels)?;
    }
    Ok(Prepared {
        image: name.to_owned(),
        digest: image.manifest_blob.digest,
        bytes: layer.blob.len,
        stripped: layer.stripped,
        base: changes.base.clone(),
    })
}

/// Waits until the kubelet would see it.
fn seen(client: &Client<'_>, name: &str, monitor: &dyn Monitor) -> Result<()> {
    let begun = Instant::now();
    while !client.cri_has_image(name)? {
        if begun.elapsed() > PATIENCE || monitor.stop() {
            return Err(Error::new(
                Kind::Unavailable,
                format!(
                    "containerd has the image {name}, and its CRI does not show it after {} s",
                    begun.elapsed().as_secs()
                ),
            )
            .hint("look into containerd's log; `ctr -n k8s.io images ls` shows what it has"));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

/// Removes the image; false if it was not there. What was unpacked of it goes with it, unless another image has it, too.
pub fn clean_up(settings: &Settings, name: &str, monitor: &dyn Monitor) -> Result<bool> {
    let client = Client::connect(&settings.socket, monitor)?;
    let Some(target) = client.image(name)? else {
        return Ok(false);
    };
    let manifest = match client.content_len(&target.blob.digest)? {
        Some(len) if len <= MANIFEST_LEN => base::manifest(&client, &target.blob.digest)?,
        _ => serde_json::Value::Null,
    };
    let id = text(&manifest, "/config/digest");
    if !id.is_empty() {
        client.delete_image(id)?;
    }
    client.delete_image(name)
}

/// Takes away the name of a base image that the loopback registry gave: the image itself stays under its own.
pub fn forget_base(settings: &Settings, base: &str, monitor: &dyn Monitor) -> Result<()> {
    Client::connect(&settings.socket, monitor)?.delete_image(base)?;
    Ok(())
}

/// Ends what only asks: a containerd that hangs is one that does not say.
struct Patience<'m> {
    inner: &'m dyn Monitor,
    until: Instant,
}

impl Monitor for Patience<'_> {
    fn stop(&self) -> bool {
        self.inner.stop() || Instant::now() >= self.until
    }
}

/// Whether the CRI of this containerd says that it restores containers; none: it does not say.
pub fn restores(settings: &Settings, monitor: &dyn Monitor) -> Result<Option<bool>> {
    let patience = Patience {
        inner: monitor,
        until: Instant::now() + ASKING,
    };
    let config = Client::connect(&settings.socket, &patience)?.cri_config()?;
    let said = |key: &str| {
        config
            .as_ref()
            .and_then(|config| config.get(key)?.as_bool())
    };
    Ok(
        match (
            said("enableExperimentalRestoreViaCreate"),
            said("enableCriu"),
        ) {
            (_, Some(false)) => Some(false),
            (switch, _) => switch,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_containerd_that_hangs_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("hung.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let settings = Settings {
            socket,
            ..Settings::default()
        };
        let begun = Instant::now();
        assert!(restores(&settings, &Silent).is_err());
        assert!(begun.elapsed() < 3 * ASKING);
    }

    #[test]
    fn an_image_says_for_which_pod_it_was_made() {
        let name = image_name("shop", "web-0.x", "3f9a2b1c0000ffff");
        assert_eq!(name, "localhost/cryostore/shop/web-0.x:3f9a2b1c0000");
        let made = Made::of(name, 7, String::new()).unwrap();
        assert_eq!(
            (made.namespace.as_str(), made.pod.as_str()),
            ("shop", "web-0.x")
        );
        for other in [
            "sha256:00",
            "localhost/cryostore/x:1",
            "docker.io/library/x:1",
        ] {
            assert_eq!(Made::of(other.to_owned(), 7, String::new()), None);
        }
    }
}
