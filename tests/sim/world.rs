//! The world of the simulation: instances, connection points, what befalls them, and what must hold.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opencmg::drain::Drain;
use opencmg::metrics::Metrics;
use opencmg::role::{Health, PublishedRole};
use opencmg::tasks::Tasks;
use opencmg::tunnel::{
    Budget, BudgetSettings, Hello, Incoming, Instance, Peer, Policy, Random, Registry,
    RegistrySettings, Supervisor, SupervisorSettings,
};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::faults::Pipe;
use super::requests::{Book, ROLE, Sky, Sums};

const NAMES: [&str; 2] = ["one", "two"];

/// How long faults go on.
const STORM: Duration = Duration::from_secs(60);

struct Running {
    registry: Registry,
    drain: Drain,
    tasks: Tasks,
}

struct Point {
    supervisor: Supervisor,
    drain: Drain,
    tasks: Tasks,
    _roles: watch::Sender<Arc<Vec<PublishedRole>>>,
}

struct Inner {
    seed: u64,
    random: Random,
    book: Book,
    instances: Mutex<Vec<Arc<Running>>>,
    points: Mutex<Vec<Point>>,
    pipes: Mutex<Vec<Pipe>>,
    pipe_tasks: Tasks,
    client_tasks: Tasks,
    runs: Mutex<u64>,
    points_made: Mutex<u16>,
    /// How often a name was taken out.
    removals: Mutex<u64>,
}

#[derive(Clone)]
pub struct World(Arc<Inner>);

fn policy(names: &[&str]) -> Policy {
    let entry = |name: &&str| ((*name).to_owned(), HashSet::from([ROLE]));
    Policy {
        connection_points: names.iter().map(entry).collect(),
    }
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Inner {
            seed,
            random: Random::seeded(seed),
            book: Book::default(),
            instances: Mutex::default(),
            points: Mutex::default(),
            pipes: Mutex::default(),
            pipe_tasks: Tasks::new(),
            client_tasks: Tasks::new(),
            runs: Mutex::default(),
            points_made: Mutex::default(),
            removals: Mutex::default(),
        }))
    }

    /// Plays the whole story; returns its digest and what became of its requests.
    pub async fn play(self) -> (u64, Sums) {
        for index in 0..2 {
            let instance = self.instance(index);
            self.0.instances.lock().unwrap().push(instance);
        }
        for name in NAMES {
            let point = self.point(name);
            self.0.points.lock().unwrap().push(point);
        }
        let watching = Tasks::new();
        watching.spawn(self.clone().watch_draining());
        let began = Instant::now();
        let mut id = 0;
        while began.elapsed() < STORM {
            sleep(self.0.random.upto(Duration::from_millis(150))).await;
            id += 1;
            self.ask(id);
            if self.0.random.below(12) == 0 {
                self.befall().await;
            }
        }
        self.calm(id).await;
        watching.abort();
        self.end().await;
        self.0.book.check();
        let sums = self.0.book.sums();
        assert!(
            sums.answered * 4 > sums.asked * 3,
            "{sums:?}: tunnels that break are not replaced soon enough"
        );
        (self.0.book.digest(), sums)
    }

    /// A random source of one request's or one dial's own: what happens at one moment may happen in any order, since
    /// tokio wakes those who watch one value in an order of its own.
    fn own_random(&self, what: [u64; 3]) -> Random {
        let seed = what.into_iter().fold(self.0.seed, |seed, part| {
            Random::seeded(seed ^ part.wrapping_mul(0x9E37_79B9_7F4A_7C15)).next()
        });
        Random::seeded(seed)
    }

    fn ask(&self, id: u64) {
        let this = self.clone();
        self.0.client_tasks.spawn(async move {
            let (book, random) = (&this.0.book, &this.own_random([1, id, 0]));
            let running = {
                let instances = this.0.instances.lock().unwrap();
                Arc::clone(&instances[random.below(instances.len())])
            };
            let sky = this.sky(&running.registry);
            book.ask(&running.registry, id, random, sky).await;
        });
    }

    fn sky(&self, registry: &Registry) -> Sky {
        let mut tunnels = registry.view();
        tunnels.retain(|tunnel| !tunnel.draining && !tunnel.roles.is_empty());
        let is_under = |pipe: &&Pipe| {
            let remote = pipe.remote.to_string();
            tunnels.iter().any(|tunnel| tunnel.remote == remote)
        };
        let pipes = self.0.pipes.lock().unwrap();
        let pipes: Vec<Pipe> = pipes.iter().filter(is_under).cloned().collect();
        let all = pipes.len() == tunnels.len();
        let (world, removals) = (self.clone(), *self.0.removals.lock().unwrap());
        Sky {
            serving: tunnels.len(),
            stays_fair: Box::new(move || {
                let same = *world.0.removals.lock().unwrap() == removals;
                all && same && pipes.iter().all(Pipe::is_sound)
            }),
        }
    }

    /// Something happens to a tunnel, a connection point, an instance or the policy.
    async fn befall(&self) {
        let random = &self.0.random;
        match random.below(20) {
            0 => {
                let at = random.below(2);
                self.0.book.note("a connection point restarts", at as u64);
                let fresh = self.point(NAMES[at]);
                let old = std::mem::replace(&mut self.0.points.lock().unwrap()[at], fresh);
                self.0
                    .pipe_tasks
                    .spawn(end_point(old, Duration::from_secs(20)));
            }
            1 => {
                let at = random.below(2);
                self.0.book.note("an instance restarts", at as u64);
                let fresh = self.instance(at as u16);
                let old = std::mem::replace(&mut self.0.instances.lock().unwrap()[at], fresh);
                old.drain.start();
                self.0.pipe_tasks.spawn(async move {
                    sleep(Duration::from_secs(15)).await;
                    old.drain.force();
                    old.tasks.join().await;
                });
            }
            2 => {
                let at = random.below(2);
                self.0
                    .book
                    .note("a name is taken out and put back", at as u64);
                let registry = self.0.instances.lock().unwrap()[at].registry.clone();
                *self.0.removals.lock().unwrap() += 1;
                registry.apply(policy(&NAMES[..1]));
                sleep(Duration::from_millis(500)).await;
                registry.apply(policy(&NAMES));
            }
            3 => self.0.pipes.lock().unwrap().iter().for_each(Pipe::calm),
            _ => {
                let mut pipes = self.0.pipes.lock().unwrap();
                if !pipes.is_empty() {
                    let at = random.below(pipes.len());
                    let pipe = &pipes[at];
                    self.0
                        .book
                        .note(pipe.strike(random), u64::from(pipe.remote.port()));
                }
                let excess = pipes.len().saturating_sub(24);
                pipes.drain(..excess);
            }
        }
    }

    /// The faults end: everything must come back by itself.
    async fn calm(&self, last: u64) {
        self.0.pipes.lock().unwrap().iter().for_each(Pipe::calm);
        timeout(Duration::from_secs(120), self.0.client_tasks.join())
            .await
            .expect("requests are under way for ever");
        let healed = async {
            while !self.is_whole() {
                sleep(Duration::from_millis(100)).await;
            }
        };
        // A permanent refusal is tried again after five minutes and up to half of that.
        let healed = timeout(Duration::from_secs(500), healed).await;
        assert!(
            healed.is_ok(),
            "not every connection point came back to every instance"
        );
        let registries: Vec<Registry> = self
            .0
            .instances
            .lock()
            .unwrap()
            .iter()
            .map(|i| i.registry.clone())
            .collect();
        for (step, registry) in registries.iter().enumerate() {
            self.0
                .book
                .ask(
                    registry,
                    last + 1 + step as u64,
                    &self.0.random,
                    self.sky(registry),
                )
                .await;
        }
    }

    /// Whether every connection point has its two tunnels to every instance.
    fn is_whole(&self) -> bool {
        self.0.instances.lock().unwrap().iter().all(|instance| {
            let mut of_name: BTreeMap<String, usize> = BTreeMap::new();
            for tunnel in instance.registry.view() {
                if !tunnel.draining && !tunnel.roles.is_empty() {
                    *of_name.entry(tunnel.peer).or_default() += 1;
                }
            }
            NAMES.iter().all(|name| of_name.get(*name) == Some(&2))
        })
    }

    /// Everything drains: nothing may be left.
    async fn end(&self) {
        let points: Vec<Point> = self.0.points.lock().unwrap().drain(..).collect();
        for point in points {
            let ended = timeout(
                Duration::from_secs(60),
                end_point(point, Duration::from_secs(20)),
            );
            ended.await.expect("a connection point does not end");
        }
        let instances: Vec<Arc<Running>> = self.0.instances.lock().unwrap().drain(..).collect();
        for instance in instances {
            instance.drain.start();
            instance.drain.force();
            let ended = timeout(Duration::from_secs(60), instance.tasks.join());
            ended.await.expect("a tunnel does not end");
            assert!(instance.registry.view().is_empty());
        }
        for pipe in self.0.pipes.lock().unwrap().drain(..) {
            drop(pipe);
        }
        self.0.pipe_tasks.abort();
    }

    /// A tunnel whose drain was seen gets no new request.
    async fn watch_draining(self) {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let began = Instant::now();
        loop {
            // After the storm little is asked, and much time passes.
            let storm = began.elapsed() < STORM;
            sleep(Duration::from_millis(if storm { 1 } else { 50 })).await;
            let instances: Vec<Arc<Running>> = self.0.instances.lock().unwrap().clone();
            for instance in instances {
                for tunnel in instance.registry.view() {
                    if tunnel.draining {
                        let now = tunnel.requests.unwrap();
                        let before = seen.insert(tunnel.remote.clone(), now);
                        assert!(
                            before.is_none_or(|before| now == before),
                            "the draining tunnel {} got a request",
                            tunnel.remote
                        );
                    }
                }
            }
        }
    }

    fn instance(&self, index: u16) -> Arc<Running> {
        let run = {
            let mut runs = self.0.runs.lock().unwrap();
            *runs += 1;
            format!("run-{}", *runs)
        };
        let hello = Hello::alone("gw.test", Instance { index, run });
        let random = Random::seeded(self.0.random.next());
        let metrics = Metrics::new();
        let budget = Budget::new(BudgetSettings::default(), metrics.clone());
        let registry = Registry::new(RegistrySettings::default(), hello, budget, metrics, random);
        registry.apply(policy(&NAMES));
        Arc::new(Running {
            registry,
            drain: Drain::new(),
            tasks: Tasks::new(),
        })
    }

    fn point(&self, name: &'static str) -> Point {
        let settings = SupervisorSettings {
            gateway: "gw".to_owned(),
            addresses: vec!["0".to_owned(), "1".to_owned()],
            ..SupervisorSettings::default()
        };
        let random = Random::seeded(self.0.random.next());
        let metrics = Metrics::new();
        let budget = Budget::new(BudgetSettings::default(), metrics.clone());
        let supervisor = Supervisor::new(settings, budget, metrics, random);
        let role = PublishedRole {
            id: ROLE,
            health: Health::Healthy,
            capacity: 100,
        };
        let (roles, heard) = watch::channel(Arc::new(vec![role]));
        let (drain, tasks) = (Drain::new(), Tasks::new());
        let (runner, draining, own) = (supervisor.clone(), drain.watch(), tasks.clone());
        let (dialler, answerer) = (self.clone(), self.clone());
        let number = {
            let mut points = self.0.points_made.lock().unwrap();
            *points += 1;
            *points
        };
        let dials = Mutex::new(0);
        let dial = move |address: String| {
            let mut dials = dials.lock().unwrap();
            *dials += 1;
            let (world, dial) = (dialler.clone(), *dials);
            async move { world.dial(name, &address, number, dial).await }
        };
        let handle = move |incoming: Incoming| {
            let world = answerer.clone();
            let id = incoming.request.uri().path()[1..].parse().unwrap();
            let random = world.own_random([2, id, 0]);
            async move { world.0.book.handle(incoming, id, random).await }
        };
        tasks.spawn(async move { runner.run(dial, heard, handle, own, draining).await });
        Point {
            supervisor,
            drain,
            tasks,
            _roles: roles,
        }
    }

    async fn dial(
        &self,
        name: &str,
        address: &str,
        point: u16,
        dial: u16,
    ) -> std::io::Result<tokio::io::DuplexStream> {
        let random = self.own_random([3, point.into(), dial.into()]);
        sleep(random.upto(Duration::from_millis(50))).await;
        if random.below(10) == 0 {
            return Err(std::io::ErrorKind::ConnectionRefused.into());
        }
        let index: usize = address.parse().unwrap();
        let remote = ([192, 0, 2, 1], point * 1000 + dial).into();
        let (theirs, ours, pipe) = Pipe::new(remote, &self.0.pipe_tasks);
        let mut pipes = self.0.pipes.lock().unwrap();
        pipes.push(pipe);
        pipes.sort_by_key(|pipe| (pipe.born, pipe.remote));
        drop(pipes);
        let instance = Arc::clone(&self.0.instances.lock().unwrap()[index]);
        let peer = Peer {
            name: name.to_owned(),
            remote,
        };
        let (registry, draining) = (instance.registry.clone(), instance.drain.watch());
        instance.tasks.spawn(async move {
            registry
                .serve(ours, peer, std::future::pending(), draining)
                .await;
        });
        Ok(theirs)
    }
}

async fn end_point(point: Point, deadline: Duration) {
    point.drain.start();
    if timeout(deadline, point.tasks.join()).await.is_err() {
        point.drain.force();
        point.tasks.join().await;
    }
    assert!(!point.supervisor.is_ready());
}
