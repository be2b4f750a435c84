//! Looks for tokens in files and in their names, in all of a tree, on every core.
//! Knows the search, and nothing of git but how to tell a repository; nothing of Python.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::scan::{self, Hit, Stream, Wanted};

/// So many files of a directory are handed to another core at once.
const AT_ONCE: usize = 128;
/// File systems whose files are made while they are read, without an end: only where the whole of
/// a machine is looked at.
const UNREAL: [&str; 3] = ["/proc", "/sys", "/dev"];

/// What came of it.
#[derive(Default)]
pub struct Outcome {
    /// The tokens, and the files that they are in.
    pub hits: Vec<(PathBuf, Hit)>,
    /// What could not be read, and why.
    pub unread: Vec<(PathBuf, String)>,
    /// Directories that hold the objects of a git repository, and `.git` files that tell of one.
    pub repositories: Vec<PathBuf>,
}

/// How far it is, and whether it should go on.
#[derive(Default)]
pub struct Progress {
    pub bytes: AtomicU64,
    pub files: AtomicU64,
    stopped: AtomicBool,
}

enum Work {
    /// What was asked for, which may be a symbolic link.
    Root(PathBuf),
    Directory(PathBuf),
    Files(Vec<PathBuf>),
}

#[derive(Default)]
struct Queue {
    work: Vec<Work>,
    /// How many are at work, and may add to it.
    busy: usize,
    ended: usize,
}

struct Walk<'a> {
    wanted: &'a Wanted,
    progress: &'a Progress,
    queue: Mutex<Queue>,
    changed: Condvar,
}

/// Looks at everything below these paths. Symbolic links are not followed, except for the paths
/// themselves; what is neither a file nor a directory is passed over.
///
/// `tick` is called now and then; it ends the search with an error of its own.
pub fn walk<E>(
    roots: Vec<PathBuf>,
    wanted: &Wanted,
    progress: &Progress,
    mut tick: impl FnMut() -> Result<(), E>,
) -> Result<Outcome, E> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let work = roots.into_iter().rev().map(Work::Root).collect();
    let queue = Mutex::new(Queue { work, ..Queue::default() });
    let walk = Walk { wanted, progress, queue, changed: Condvar::new() };
    let mut outcome = Outcome::default();
    let ended = thread::scope(|scope| {
        let spawned: Vec<_> = (0..cores)
            .filter_map(|_| thread::Builder::new().spawn_scoped(scope, || walk.run()).ok())
            .collect();
        let ended = walk.wait(spawned.len(), &mut tick);
        progress.stopped.store(ended.is_err(), Relaxed);
        if spawned.is_empty() {
            outcome.add(walk.run()); // no thread could be had
        }
        for thread in spawned {
            outcome.add(thread.join().unwrap_or_default());
        }
        ended
    });
    outcome.hits.sort_by(|(one, hit), (other, later)| {
        one.cmp(other).then_with(|| (hit.line > 0, hit.start).cmp(&(later.line > 0, later.start)))
    });
    outcome.unread.sort();
    outcome.repositories.sort();
    ended.map(|()| outcome)
}

impl Outcome {
    fn add(&mut self, other: Self) {
        self.hits.extend(other.hits);
        self.unread.extend(other.unread);
        self.repositories.extend(other.repositories);
    }
}

impl Walk<'_> {
    fn locked(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until so many threads have ended.
    fn wait<E>(&self, threads: usize, tick: &mut impl FnMut() -> Result<(), E>) -> Result<(), E> {
        loop {
            let queue = self.locked();
            if queue.ended == threads {
                return Ok(());
            }
            let waited = self.changed.wait_timeout(queue, Duration::from_millis(50));
            drop(waited.unwrap_or_else(PoisonError::into_inner));
            tick()?;
        }
    }

    /// Takes work until there is none, and nobody who could add to it.
    fn run(&self) -> Outcome {
        let mut worker = Worker { walk: self, stream: Stream::new(), outcome: Outcome::default() };
        while let Some(work) = self.next() {
            worker.take(work);
            self.locked().busy -= 1;
            self.changed.notify_all();
        }
        self.locked().ended += 1;
        self.changed.notify_all();
        worker.outcome
    }

    fn next(&self) -> Option<Work> {
        let mut queue = self.locked();
        loop {
            if self.progress.stopped.load(Relaxed) {
                return None;
            }
            if let Some(work) = queue.work.pop() {
                queue.busy += 1;
                return Some(work);
            }
            if queue.busy == 0 {
                return None;
            }
            let waited = self.changed.wait_timeout(queue, Duration::from_millis(50));
            (queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn add(&self, work: Work) {
        self.locked().work.push(work);
        self.changed.notify_one();
    }
}

struct Worker<'a> {
    walk: &'a Walk<'a>,
    stream: Stream,
    outcome: Outcome,
}

impl Worker<'_> {
    fn take(&mut self, work: Work) {
        match work {
            Work::Root(path) => {
                self.name(path.file_name().unwrap_or_default(), &path);
                match fs::metadata(&path) {
                    Ok(about) if about.is_dir() => self.directory(&path),
                    Ok(about) if about.is_file() => self.file(path, File::open),
                    Ok(_) => self.outcome.unread.push((path, "it is no file".to_owned())),
                    Err(error) => self.outcome.unread.push((path, reason(&error))),
                }
            }
            Work::Directory(path) => self.directory(&path),
            Work::Files(paths) => paths.into_iter().for_each(|path| self.file(path, open)),
        }
    }

    /// Notes what cannot be read. What was listed and is gone since, as temporary files are, has
    /// nothing to be read.
    fn unread(&mut self, path: PathBuf, error: &io::Error) {
        if error.kind() != io::ErrorKind::NotFound {
            self.outcome.unread.push((path, reason(error)));
        }
    }

    fn name(&mut self, name: &OsStr, path: &Path) {
        let hits = scan::find(name.as_encoded_bytes(), self.walk.wanted);
        self.outcome.hits.extend(hits.into_iter().map(|hit| (path.to_owned(), hit)));
    }

    fn directory(&mut self, path: &Path) {
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) => return self.unread(path.to_owned(), &error),
        };
        let (mut files, mut marks) = (Vec::new(), 0);
        for entry in entries {
            if self.walk.progress.stopped.load(Relaxed) {
                return;
            }
            let (name, kind, inner) = match entry
                .and_then(|entry| Ok((entry.file_name(), entry.file_type()?, entry.path())))
            {
                Ok(known) => known,
                Err(error) => {
                    self.unread(path.to_owned(), &error);
                    continue;
                }
            };
            self.name(&name, &inner);
            // Git follows links that stand for these.
            let link = kind.is_symlink();
            marks += usize::from(
                ((kind.is_dir() || link) && (name == "objects" || name == "refs"))
                    || ((kind.is_file() || link) && name == "HEAD"),
            );
            if kind.is_dir() {
                if !is_unreal(&inner) {
                    self.walk.add(Work::Directory(inner));
                }
            } else if kind.is_file() {
                if name == ".git" {
                    self.outcome.repositories.push(inner.clone());
                }
                files.push(inner);
                if files.len() == AT_ONCE {
                    self.walk.add(Work::Files(core::mem::take(&mut files)));
                }
            }
        }
        if marks == 3 {
            self.outcome.repositories.push(path.to_owned());
        }
        for path in files {
            self.file(path, open);
        }
    }

    fn file(&mut self, path: PathBuf, open: fn(PathBuf) -> io::Result<File>) {
        let mut hits = Vec::new();
        let read = open(path.clone()).and_then(|file| self.read(file, &mut hits));
        self.stream.end(self.walk.wanted, &mut hits);
        self.walk.progress.files.fetch_add(1, Relaxed);
        self.outcome.hits.extend(hits.into_iter().map(|hit| (path.clone(), hit)));
        if let Err(error) = read {
            self.unread(path, &error);
        }
    }

    fn read(&mut self, mut file: File, hits: &mut Vec<Hit>) -> io::Result<()> {
        let about = file.metadata()?;
        if !about.is_file() {
            return Ok(()); // it has become something else since it was listed
        }
        let mut read = 0;
        while !self.walk.progress.stopped.load(Relaxed) {
            let count = match file.read(self.stream.space()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            self.stream.take(count, self.walk.wanted, hits);
            let count = u64::try_from(count).unwrap_or_default();
            self.walk.progress.bytes.fetch_add(count, Relaxed);
            read += count;
            if count == 0 || read == about.len() {
                break;
            }
        }
        Ok(())
    }
}

/// Whether a directory is one of those, by whatever way it was reached.
pub fn is_unreal(path: &Path) -> bool {
    UNREAL.iter().map(Path::new).any(|unreal| {
        path.file_name() == unreal.file_name()
            && fs::canonicalize(path).is_ok_and(|whole| whole == unreal)
    })
}

/// Opens what was listed as a file. It may be a link or a pipe by now, neither of which must be
/// followed or waited for.
fn open(path: PathBuf) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY);
    }
    options.open(path)
}

/// What the operating system says, without the number.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}
