//! Owns the calls to containerd that are made here, and the numbers of their fields.
//!
//! Stands on containerd 2.1, api/services/{content,diff,images,leases,snapshots}/v1/*.proto, api/types/{descriptor,mount}.proto, and on the CRI,
//! k8s.io/cri-api/pkg/apis/runtime/v1/api.proto.
//!
//! Always: what is there already is as good as what was made. Never: calls anything of the CRI but ImageStatus and Status, which change nothing.

use std::path::Path;

use bytes::Bytes;
use cryostore_engine::{Error, Kind, Monitor, Result};

use super::grpc::{ALREADY_EXISTS, Call, Channel, For, NOT_FOUND};
use super::proto::{Message, all_at, bytes_at, number_at, text_at, value_at};
use crate::restore::digest::Blob;

/// Where the kubelet's images and containers are.
const NAMESPACE: &str = "k8s.io";
/// 1 MiB a message: containerd takes 16 MiB at most.
const PIECE: usize = 1 << 20;
const WRITE: u64 = 1;
const COMMIT: u64 = 2;

/// Labels, as pairs.
pub(super) type Labels = Vec<(String, String)>;

/// A label.
pub(super) fn label(key: impl Into<String>, value: impl Into<String>) -> (String, String) {
    (key.into(), value.into())
}

/// What an image names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) blob: Blob,
}

impl Descriptor {
    fn message(&self) -> Message {
        Message::new()
            .text(1, &self.media_type)
            .text(2, &self.blob.digest)
            .number(3, self.blob.len)
    }

    fn read(bytes: &[u8]) -> Self {
        Self {
            media_type: text_at(bytes, 1),
            blob: Blob {
                digest: text_at(bytes, 2),
                len: number_at(bytes, 3),
            },
        }
    }
}

/// Somebody who asks containerd.
pub(crate) struct Client<'m> {
    channel: Channel,
    to: For,
    monitor: &'m dyn Monitor,
}

impl<'m> Client<'m> {
    pub(crate) fn connect(socket: &Path, monitor: &'m dyn Monitor) -> Result<Self> {
        Ok(Self {
            channel: Channel::connect(socket, monitor)?,
            to: For {
                namespace: NAMESPACE.to_owned(),
                lease: None,
            },
            monitor,
        })
    }

    /// What is made from now on is kept by this lease.
    pub(super) fn use_lease(&mut self, lease: Option<String>) {
        self.to.lease = lease;
    }

    fn call(&self, what: &str, method: &str, message: Message) -> Result<Bytes> {
        let answer = self
            .channel
            .call(method, &self.to, message.into_bytes(), self.monitor)?;
        answer.map_err(|status| status.error(what))
    }

    /// As above; none where it is not there.
    fn find(&self, what: &str, method: &str, message: Message) -> Result<Option<Bytes>> {
        let answer = self
            .channel
            .call(method, &self.to, message.into_bytes(), self.monitor)?;
        match answer {
            Ok(bytes) => Ok(Some(bytes)),
            Err(status) if status.code == NOT_FOUND => Ok(None),
            Err(status) => Err(status.error(what)),
        }
    }

    /// As above; false where it is there already.
    fn make(&self, what: &str, method: &str, message: Message) -> Result<bool> {
        let answer = self
            .channel
            .call(method, &self.to, message.into_bytes(), self.monitor)?;
        match answer {
            Ok(_) => Ok(true),
            Err(status) if status.code == ALREADY_EXISTS => Ok(false),
            Err(status) => Err(status.error(what)),
        }
    }

    pub(super) fn create_lease(&self, id: &str, labels: &Labels) -> Result<()> {
        let message = Message::new().text(1, id).map(3, labels);
        self.make(
            "making a lease",
            "containerd.services.leases.v1.Leases/Create",
            message,
        )?;
        Ok(())
    }

    pub(super) fn delete_lease(&self, id: &str) -> Result<()> {
        let message = Message::new().text(1, id).number(2, 1);
        self.find(
            "ending a lease",
            "containerd.services.leases.v1.Leases/Delete",
            message,
        )?;
        Ok(())
    }

    /// A small blob.
    pub(super) fn put(&self, name: &str, bytes: &[u8], labels: &Labels) -> Result<()> {
        let mut upload = self.upload(name)?;
        upload.write(bytes)?;
        upload.commit(&Blob::of(bytes), labels)
    }

    /// A blob that comes in pieces. Until it is committed, nobody sees it.
    pub(super) fn upload(&self, name: &str) -> Result<Upload<'_, 'm>> {
        let method = "containerd.services.content.v1.Content/Write";
        let call = self.channel.open(method, &self.to, self.monitor)?;
        Ok(Upload {
            client: self,
            call: call.map_err(|status| status.error("writing content"))?,
            name: name.to_owned(),
            offset: 0,
            buffer: Vec::with_capacity(PIECE),
        })
    }

    /// Ends an upload that was not committed.
    pub(super) fn abort(&self, name: &str) -> Result<()> {
        let message = Message::new().text(1, name);
        self.find(
            "ending an upload",
            "containerd.services.content.v1.Content/Abort",
            message,
        )?;
        Ok(())
    }

    /// The length of a blob; none if it is not there.
    pub(crate) fn content_len(&self, digest: &str) -> Result<Option<u64>> {
        let message = Message::new().text(1, digest);
        let found = self.find(
            "looking for content",
            "containerd.services.content.v1.Content/Info",
            message,
        )?;
        Ok(found.map(|answer| number_at(bytes_at(&answer, 1), 2)))
    }

    /// Reads bytes of a blob, piece by piece; with `len` 0 to its end.
    pub(crate) fn read(
        &self,
        digest: &str,
        offset: u64,
        len: u64,
        mut each: impl FnMut(&[u8]) -> std::io::Result<()>,
    ) -> Result<()> {
        let what = "reading content";
        let method = "containerd.services.content.v1.Content/Read";
        let message = Message::new()
            .text(1, digest)
            .number(2, offset)
            .number(3, len);
        let mut call = self
            .channel
            .open(method, &self.to, self.monitor)?
            .map_err(|status| status.error(what))?;
        let sent = self
            .channel
            .send(&mut call, message.into_bytes(), true, self.monitor)?;
        sent.map_err(|status| status.error(what))?;
        loop {
            let answer = self.channel.receive(&mut call, self.monitor)?;
            match answer.map_err(|status| status.error(what))? {
                Some(answer) => {
                    each(bytes_at(&answer, 2)).map_err(|e| Error::io(what, e))?;
                }
                None => return Ok(()),
            }
        }
    }

    /// What the image of this name names; none if there is none.
    pub(crate) fn image(&self, name: &str) -> Result<Option<Descriptor>> {
        let message = Message::new().text(1, name);
        let found = self.find(
            "looking for an image",
            "containerd.services.images.v1.Images/Get",
            message,
        )?;
        Ok(found.map(|answer| Descriptor::read(bytes_at(bytes_at(&answer, 1), 3))))
    }

    /// Names of the images that have this label, when they were made, in seconds since 1970, and what another of their labels says.
    pub(super) fn images_with(
        &self,
        label: &str,
        other: &str,
    ) -> Result<Vec<(String, u64, String)>> {
        let message = Message::new().text(1, &format!("labels.\"{label}\""));
        let answer = self.call(
            "listing images",
            "containerd.services.images.v1.Images/List",
            message,
        )?;
        Ok(all_at(&answer, 1)
            .into_iter()
            .map(|image| {
                let made_at = number_at(bytes_at(image, 7), 1);
                let other = value_at(image, 2, other).unwrap_or_default();
                (text_at(image, 1), made_at, other)
            })
            .collect())
    }

    /// Gives a name to what is there; another image loses it.
    pub(super) fn create_image(
        &self,
        name: &str,
        target: &Descriptor,
        labels: &Labels,
    ) -> Result<()> {
        let image = Message::new()
            .text(1, name)
            .map(2, labels)
            .message(3, &target.message());
        let message = Message::new().message(1, &image);
        let service = "containerd.services.images.v1.Images";
        if !self.make(
            "naming an image",
            &format!("{service}/Create"),
            message.clone(),
        )? {
            self.call("naming an image", &format!("{service}/Update"), message)?;
        }
        Ok(())
    }

    /// False: there was none. What nothing names any more goes, before this returns.
    pub(super) fn delete_image(&self, name: &str) -> Result<bool> {
        let message = Message::new().text(1, name).number(2, 1);
        let found = self.find(
            "removing an image",
            "containerd.services.images.v1.Images/Delete",
            message,
        )?;
        Ok(found.is_some())
    }

    /// Unpacks a layer without a parent into a snapshot of the name `chain`, unless it is there.
    pub(super) fn unpack(
        &self,
        snapshotter: &str,
        key: &str,
        chain: &str,
        layer: &Descriptor,
    ) -> Result<()> {
        let service = "containerd.services.snapshots.v1.Snapshots";
        let what = format!("unpacking with the snapshotter {snapshotter}");
        let named = |name: &str| Message::new().text(1, snapshotter).text(2, name);
        if self
            .find(&what, &format!("{service}/Stat"), named(chain))?
            .is_some()
        {
            return Ok(());
        }
        let prepared = self.call(&what, &format!("{service}/Prepare"), named(key))?;
        let unpacked = self
            .apply(&what, &all_at(&prepared, 1), layer)
            .and_then(|()| {
                let commit = Message::new()
                    .text(1, snapshotter)
                    .text(2, chain)
                    .text(3, key);
                // Another restore of the same snapshot may have been first.
                self.make(&what, &format!("{service}/Commit"), commit)
            });
        if !matches!(unpacked, Ok(true)) {
            self.find(&what, &format!("{service}/Remove"), named(key))?;
        }
        unpacked.map(drop)
    }

    fn apply(&self, what: &str, mounts: &[&[u8]], layer: &Descriptor) -> Result<()> {
        let mut message = Message::new().message(1, &layer.message());
        for mount in mounts {
            message = message.raw(2, mount);
        }
        let answer = self.call(what, "containerd.services.diff.v1.Diff/Apply", message)?;
        let applied = Descriptor::read(bytes_at(&answer, 1));
        if applied.blob.digest != layer.blob.digest {
            return Err(Error::new(
                Kind::Corrupt,
                format!(
                    "containerd unpacked {} in place of {}",
                    applied.blob.digest, layer.blob.digest
                ),
            ));
        }
        Ok(())
    }

    /// True if the CRI, and so the kubelet, sees the image.
    pub(super) fn cri_has_image(&self, name: &str) -> Result<bool> {
        let message = Message::new().message(1, &Message::new().text(1, name));
        let answer = self.call(
            "asking the CRI",
            "runtime.v1.ImageService/ImageStatus",
            message,
        )?;
        Ok(!bytes_at(&answer, 1).is_empty())
    }

    /// The CRI's configuration, JSON; none if it does not say.
    pub(crate) fn cri_config(&self) -> Result<Option<serde_json::Value>> {
        let message = Message::new().number(1, 1);
        let answer = self.call(
            "asking the CRI",
            "runtime.v1.RuntimeService/Status",
            message,
        )?;
        let text = value_at(&answer, 2, "config");
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
    }
}

/// A blob on its way.
pub(super) struct Upload<'c, 'm> {
    client: &'c Client<'m>,
    call: Call,
    name: String,
    offset: u64,
    buffer: Vec<u8>,
}

impl Upload<'_, '_> {
    fn step(&mut self, message: Message, is_last: bool) -> Result<bool> {
        let what = "writing content";
        let (channel, monitor) = (&self.client.channel, self.client.monitor);
        let message = message.into_bytes();
        let sent = match channel.send(&mut self.call, message, is_last, monitor)? {
            Ok(()) => channel.receive(&mut self.call, monitor)?,
            Err(status) => Err(status),
        };
        match sent {
            Ok(Some(_)) => Ok(true),
            Ok(None) => Err(Error::new(
                Kind::Unavailable,
                format!("containerd, {what}: it ended the call early"),
            )),
            // It has what was to be written.
            Err(status) if status.code == ALREADY_EXISTS => Ok(false),
            Err(status) => Err(status.error(what)),
        }
    }

    pub(super) fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let room = (PIECE - self.buffer.len()).min(bytes.len());
            let (these, after) = bytes.split_at(room);
            self.buffer.extend_from_slice(these);
            bytes = after;
            if self.buffer.len() == PIECE {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let message = Message::new()
            .number(1, WRITE)
            .text(2, &self.name)
            .number(5, self.offset)
            .bytes(6, &self.buffer);
        self.step(message, false)?;
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Makes it there, if it is what it is to be.
    pub(super) fn commit(mut self, blob: &Blob, labels: &Labels) -> Result<()> {
        let message = Message::new()
            .number(1, COMMIT)
            .text(2, &self.name)
            .number(3, blob.len)
            .text(4, &blob.digest)
            .number(5, self.offset)
            .bytes(6, &std::mem::take(&mut self.buffer))
            .map(7, labels);
        if !self.step(message, true)? {
            self.client.abort(&self.name)?;
        }
        Ok(())
    }
}

impl std::io::Write for Upload<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Self::write(self, bytes).map_err(std::io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
