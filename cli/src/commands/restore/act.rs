//! Does what the plan says, driver by driver.

use std::io::{BufRead, IsTerminal, stderr, stdin};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cryostore_engine::{Deadline, Error, Kind, Repository, Silent};
use cryostore_operator::Cluster;
use cryostore_operator::restore::layer::Changes;
use cryostore_operator::restore::plan::{Driver, Plan};
use cryostore_operator::restore::registry::Registry;
use cryostore_operator::restore::{Source, containerd, criu, oci, place, podman, push, wait};

use super::RestoreArgs;
use super::report::Done;
use super::through_agent;
use crate::context::Context;
use crate::exit::Failure;
use crate::text::size;

/// What there is to do it with.
pub(super) struct Act<'a> {
    pub(super) args: &'a RestoreArgs,
    pub(super) context: &'a Context,
    pub(super) repo: &'a Repository,
    pub(super) source: &'a Source,
    pub(super) plan: &'a Plan,
    pub(super) cluster: Option<&'a Cluster>,
}

/// None: somebody else took the pod's name since it was looked at, so that another plan is needed.
pub(super) fn act(act: &Act<'_>) -> Result<Option<Done>, Failure> {
    let started = act.context.env.elapsed();
    let to = act.plan.to.as_deref().unwrap_or_default();
    let mut done = match act.plan.driver {
        Driver::Archive => archive(act, Path::new(to)),
        Driver::Directory => directory(act, to),
        Driver::OciImage => image(act, to),
        Driver::Containerd => match pod(act)? {
            Some(done) => Ok(done),
            None => return Ok(None),
        },
        Driver::Podman => podman(act),
        Driver::Criu => criu(act),
    }?;
    let took = act.context.env.elapsed().saturating_sub(started);
    done.seconds = took.as_secs_f64();
    done.text.push_str(&format!(", in {:.1} s", done.seconds));
    Ok(Some(done))
}

fn archive(act: &Act<'_>, path: &Path) -> Result<Done, Failure> {
    let bytes = place::archive(act.repo, act.source, path, act.context.monitor())?;
    Ok(Done {
        text: format!("{} to {}", size(bytes), path.display()),
        path: Some(path.display().to_string()),
        bytes: Some(bytes),
        ..Done::default()
    })
}

fn directory(act: &Act<'_>, to: &str) -> Result<Done, Failure> {
    let docker = to.strip_prefix("docker:");
    let dir = match docker {
        Some(id) => place::docker_checkpoint(id, &checkpoint_name(act))?,
        None => Path::new(to).to_path_buf(),
    };
    let stats = place::directory(act.repo, act.source, &dir, act.context.monitor())?;
    for skipped in &stats.skipped {
        act.context.screen.warn(&format!("not unpacked: {skipped}"));
    }
    let mut text = format!(
        "{} files, {} to {}",
        stats.files,
        size(stats.bytes),
        dir.display()
    );
    if let Some(id) = docker {
        text.push_str(&format!(
            "; go on with: docker start --checkpoint {} {id}",
            checkpoint_name(act)
        ));
    }
    Ok(Done {
        text,
        path: Some(dir.display().to_string()),
        bytes: Some(stats.bytes),
        ..Done::default()
    })
}

fn checkpoint_name(act: &Act<'_>) -> String {
    format!("cryostore-{}", &act.plan.snapshot.to_string()[..12])
}

/// How the image is called: by what it holds.
fn tag(act: &Act<'_>) -> String {
    act.plan.snapshot.to_string()[..12].to_owned()
}

fn layout(act: &Act<'_>, dir: &Path) -> Result<Done, Failure> {
    let changes = Changes::of(act.source);
    let monitor = act.context.monitor();
    let written = oci::write_layout(act.repo, act.source, &changes, dir, &tag(act), monitor)?;
    Ok(Done {
        text: format!("an image of {} to {}", size(written.bytes), dir.display()),
        path: Some(dir.display().to_string()),
        bytes: Some(written.bytes),
        digest: Some(written.digest),
        stripped: Some(written.stripped),
        ..Done::default()
    })
}

fn image(act: &Act<'_>, to: &str) -> Result<Done, Failure> {
    if let Some(dir) = to.strip_prefix("oci:") {
        layout(act, Path::new(dir))
    } else if let Some(name) = to.strip_prefix("containerd:") {
        let made = into_containerd(act, name, None)?;
        Ok(Done {
            text: format!("an image of {} to containerd as {name}", size(made.bytes)),
            bytes: Some(made.bytes),
            digest: Some(made.digest),
            stripped: Some(made.stripped),
            ..Done::default()
        })
    } else {
        push(act, to)
    }
}

fn push(act: &Act<'_>, to: &str) -> Result<Done, Failure> {
    let Some(text) = to.strip_prefix("docker://") else {
        return Err(Failure::usage(
            format!("`{to}` is no place for an image"),
            "say oci:DIR, docker://HOST/NAME:TAG or containerd:NAME",
        ));
    };
    let target = push::Target::parse(text, &tag(act), act.args.plain_http)?;
    sure(act, to)?;
    let login = push::Login::find(&login_files(), &target.host);
    let written = push::push(act.repo, act.source, &target, &login, act.context.monitor())?;
    Ok(Done {
        text: format!(
            "an image of {} to {}/{}:{}",
            size(written.bytes),
            target.host,
            target.name,
            target.tag
        ),
        bytes: Some(written.bytes),
        digest: Some(written.digest),
        stripped: Some(written.stripped),
        ..Done::default()
    })
}

/// Where Podman, Skopeo and Docker write logins down, in their order.
fn login_files() -> Vec<PathBuf> {
    let of = |variable: &str, rest: &str| {
        std::env::var_os(variable).map(|dir| PathBuf::from(dir).join(rest))
    };
    let files = [
        std::env::var_os("REGISTRY_AUTH_FILE").map(PathBuf::from),
        of("XDG_RUNTIME_DIR", "containers/auth.json"),
        of("HOME", ".config/containers/auth.json"),
        of("DOCKER_CONFIG", "config.json"),
        of("HOME", ".docker/config.json"),
    ];
    files.into_iter().flatten().collect()
}

fn into_containerd(
    act: &Act<'_>,
    name: &str,
    registry: Option<&Registry>,
) -> Result<containerd::Prepared, Failure> {
    Ok(containerd::prepare(
        act.repo,
        act.source,
        registry,
        &act.args.settings(),
        name,
        &*act.context.env,
        act.context.monitor(),
    )?)
}

/// The image into the node's containerd, and the pod through the cluster's API.
fn pod(act: &Act<'_>) -> Result<Option<Done>, Failure> {
    let (plan, monitor) = (act.plan, act.context.monitor());
    let missing = || Error::new(Kind::Internal, "a plan that was not refused has no pod");
    let cluster = act.cluster.ok_or_else(missing)?;
    let json = plan.pod.as_ref().ok_or_else(missing)?;
    let of = |text: &Option<String>| text.clone().ok_or_else(missing);
    let (image, node) = (of(&plan.image)?, of(&plan.node)?);
    let (namespace, name) = (of(&plan.namespace)?, of(&plan.name)?);
    if !plan.is_here {
        return through_agent::pod(act, cluster, json, &node);
    }
    let settings = act.args.settings();
    tidy(cluster, &settings, act.context);
    // Until the container runs: its runtime fetches the base image when it creates it.
    let registry = Registry::start(containerd::NodeContent(settings.clone()), 0)?;
    let made = into_containerd(act, &image, Some(&registry))?;
    if made.base.is_some() && act.args.restart_policy.starts_again() {
        act.context.screen.warn("the base image is given to containerd by this command, and it ends when the container runs: a container that is started again later needs a base image that containerd can fetch by itself, or the node agent");
    }
    let created = cluster.create_pod(json, monitor);
    let uid = match created {
        Ok(uid) => uid,
        Err(e) => {
            if nobody_uses_it(act, cluster, (&namespace, &name)) {
                let tidying = Deadline::after(TIDYING, &Silent, &*act.context.env);
                let _ = containerd::clean_up(&settings, &image, &tidying);
            }
            return not_made(act, e);
        }
    };
    act.context.screen.note(&format!(
        "pod {namespace}/{name} was made; waiting until {} runs",
        plan.container
    ));
    let limit = Duration::from_secs(act.args.timeout);
    let runs = wait::until_it_runs(
        cluster,
        (&namespace, &name, &uid),
        &plan.container,
        limit,
        monitor,
    );
    if let (Ok(()), Some(base)) = (&runs, &made.base) {
        containerd::forget_base(&settings, base, monitor)?;
    }
    runs?;
    Ok(Some(Done {
        text: format!(
            "pod {namespace}/{name} runs on node {node}, container {} goes on from the checkpoint",
            plan.container
        ),
        digest: Some(made.digest),
        bytes: Some(made.bytes),
        pod_uid: Some(uid),
        stripped: Some(made.stripped),
        ..Done::default()
    }))
}

/// Whether the image of a pod that was not made may go. The server may have made the pod though its answer was lost, and a pod that took the name may be of the
/// same snapshot, and so of the same image: only if there is no pod, it is nobody's.
pub(super) fn nobody_uses_it(act: &Act<'_>, cluster: &Cluster, pod: (&str, &str)) -> bool {
    let tidying = Deadline::after(TIDYING, &Silent, &*act.context.env);
    matches!(cluster.has_pod(pod.0, pod.1, &tidying), Ok(Some(false)))
}

/// A name that was taken meanwhile asks for another plan, unless the user said it.
pub(super) fn not_made(act: &Act<'_>, e: Error) -> Result<Option<Done>, Failure> {
    if e.kind() == Kind::Conflict && act.args.name.is_none() {
        Ok(None)
    } else {
        Err(e.into())
    }
}

/// An hour: no restore takes longer from its image to its pod.
const YOUNG: Duration = Duration::from_secs(3600);
/// What is tidied up after a failure is the matter of a moment.
const TIDYING: Duration = Duration::from_secs(30);

/// Removes the images of earlier restores whose pods are gone: memory that nobody needs any more.
fn tidy(cluster: &Cluster, settings: &containerd::Settings, context: &Context) {
    let monitor = context.monitor();
    let old = u64::try_from((context.env.now() - YOUNG).as_second()).unwrap_or(0);
    let tidied = containerd::made(settings, monitor).and_then(|images| {
        for made in images.into_iter().filter(|made| made.made_at < old) {
            if cluster.has_pod(&made.namespace, &made.pod, monitor)? == Some(false) {
                containerd::clean_up(settings, &made.image, monitor)?;
            }
        }
        Ok(())
    });
    // The restore does not depend on it, and whatever is wrong with containerd it says itself.
    if let Err(e) = tidied {
        monitor.warning(&format!("images of earlier restores were not removed: {e}"));
    }
}

fn podman(act: &Act<'_>) -> Result<Done, Failure> {
    let options = podman::Options {
        name: act.args.name.clone(),
        publish: act.args.publish.clone(),
        tcp_established: act.args.tcp_established,
    };
    let id = podman::restore(
        act.repo,
        act.source,
        &options,
        &act.args.spool,
        act.context.monitor(),
    )?;
    Ok(Done {
        text: format!("podman restored container {}", id.get(..12).unwrap_or(&id)),
        container_id: Some(id),
        ..Done::default()
    })
}

fn criu(act: &Act<'_>) -> Result<Done, Failure> {
    let failed = |e| Error::io(act.args.spool.display(), e);
    let part = tempfile::Builder::new()
        .prefix("cryostore-")
        .tempdir_in(&act.args.spool)
        .map_err(failed)?;
    let dir = part.path().join("images");
    place::directory(act.repo, act.source, &dir, act.context.monitor())?;
    match criu::restore(act.source, &dir, &act.args.criu_option) {
        Ok(restored) => Ok(Done {
            text: format!("criu restored process {}", restored.pid),
            pid: Some(restored.pid),
            ..Done::default()
        }),
        Err(e) => {
            // Its log is the evidence; the memory beside it goes.
            let log = act
                .args
                .spool
                .join(format!("cryostore-{}.restore.log", tag(act)));
            let kept = std::fs::rename(dir.join("restore.log"), &log).is_ok();
            let hint = e.advice().unwrap_or_default().replace(
                &dir.join("restore.log").display().to_string(),
                &log.display().to_string(),
            );
            Err(if kept { e.hint(hint) } else { e }.into())
        }
    }
}

/// Memory leaves for a place where others may read it.
pub(super) fn sure(act: &Act<'_>, place: &str) -> Result<(), Failure> {
    if act.args.yes {
        return Ok(());
    }
    let refused = || {
        Error::new(
            Kind::Denied,
            format!("the image holds the container's memory in clear text, passwords among it: not sent to {place}"),
        )
        .hint("say --yes if all who can read that registry may read the memory")
    };
    if !(stdin().is_terminal() && stderr().is_terminal()) || act.context.output.json {
        return Err(refused().into());
    }
    act.context.screen.report(&format!(
        "The image holds the container's memory in clear text, passwords among it. Send it to {place}? Type yes:"
    ));
    let mut line = String::new();
    stdin()
        .lock()
        .read_line(&mut line)
        .map_err(|e| Error::io("standard input", e))?;
    if line.trim() == "yes" {
        Ok(())
    } else {
        Err(refused().into())
    }
}
