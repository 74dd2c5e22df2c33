//! Owns driver 1: the archive byte for byte, or its files, in a place.
//!
//! Always: nothing that is there is overwritten; the file or directory appears when it is whole and its digest was right. Names in the archive are the
//! engine's matter: it refuses those that lead outside, and makes links last. Never: changes a byte.

use std::path::{Path, PathBuf};

use cryostore_engine::{
    Error, Kind, Monitor, Output, Repository, Result, UnpackStats, export, unpack,
};

use super::source::Source;

/// Where docker keeps its containers.
const DOCKER: &str = "/var/lib/docker/containers";

/// Writes the archive to a new file, on the disk when this returns. Gives its bytes.
pub fn archive(
    repo: &Repository,
    source: &Source,
    path: &Path,
    monitor: &dyn Monitor,
) -> Result<u64> {
    if path.symlink_metadata().is_ok() {
        return Err(Error::new(
            Kind::Conflict,
            format!("{} is there already", path.display()),
        )
        .hint("say a name that does not exist yet"));
    }
    let target = Output::File {
        path: path.to_path_buf(),
        sync: true,
    };
    Ok(export(repo, &source.record, target, monitor)?.bytes)
}

/// Unpacks the archive into a directory, which must not exist, or be empty.
pub fn directory(
    repo: &Repository,
    source: &Source,
    dir: &Path,
    monitor: &dyn Monitor,
) -> Result<UnpackStats> {
    unpack(repo, &source.record, dir, monitor)
}

/// The directory of a checkpoint of docker's container `id` (whole, or as much as tells it apart).
pub fn docker_checkpoint(id: &str, checkpoint: &str) -> Result<PathBuf> {
    docker_checkpoint_in(Path::new(DOCKER), id, checkpoint)
}

fn docker_checkpoint_in(containers: &Path, id: &str, checkpoint: &str) -> Result<PathBuf> {
    let unusable = |text: String| {
        Error::new(Kind::NotFound, text)
            .hint("say the id that `docker ps --no-trunc` shows; the container has to be there: `docker create`")
    };
    if id.len() < 4 || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(unusable(format!(
            "`{id}` is no id of a container of docker"
        )));
    }
    let entries = std::fs::read_dir(containers).map_err(|e| Error::io(containers.display(), e))?;
    let found: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(id))
        .map(|entry| entry.path())
        .collect();
    let [container] = found.as_slice() else {
        return Err(unusable(format!(
            "{} containers of docker have an id that begins with {id}",
            found.len()
        )));
    };
    let checkpoints = container.join("checkpoints");
    std::fs::create_dir_all(&checkpoints).map_err(|e| Error::io(checkpoints.display(), e))?;
    Ok(checkpoints.join(checkpoint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_of_docker_is_found_by_the_beginning_of_its_id_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        for id in ["aaaa11", "aaaa22", "bbbb11"] {
            std::fs::create_dir(dir.path().join(id)).unwrap();
        }
        let find = |id: &str| docker_checkpoint_in(dir.path(), id, "c1");
        assert_eq!(
            find("bbbb").unwrap(),
            dir.path().join("bbbb11/checkpoints/c1")
        );
        for id in ["aaaa", "cccc", "../../x", "", "b"] {
            assert_eq!(find(id).unwrap_err().kind(), Kind::NotFound, "{id}");
        }
    }
}
