//! A network between clients and a broker that can keep the answers to heartbeats of groups (KIP-848).

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

/// ConsumerGroupHeartbeat, behind the length of a request.
const HEARTBEAT: [u8; 2] = 68_u16.to_be_bytes();

#[derive(Default)]
struct State {
    held: Mutex<bool>,
    changed: Condvar,
    over: AtomicBool,
}

pub struct Proxy {
    pub address: SocketAddr,
    state: Arc<State>,
}

impl Proxy {
    /// Listens for clients of `broker`.
    pub fn start(broker: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy { address: listener.local_addr().unwrap(), state: Arc::default() };
        let state = Arc::clone(&proxy.state);
        thread::spawn(move || {
            for client in listener.incoming() {
                if state.over.load(Ordering::Relaxed) {
                    return;
                }
                // Where the broker is not there, the client is told in the same way: the connection closes.
                if let (Ok(client), Ok(server)) = (client, TcpStream::connect(broker)) {
                    let state = Arc::clone(&state);
                    let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                    let heart = Arc::new(AtomicBool::new(false));
                    let beats = Arc::clone(&heart);
                    thread::spawn(move || {
                        copy(from, to, &|request| {
                            if request.get(4..6) == Some(&HEARTBEAT) {
                                beats.store(true, Ordering::Relaxed);
                            }
                        });
                    });
                    thread::spawn(move || {
                        copy(server, client, &|_| {
                            let held = state.held.lock().unwrap();
                            let waits = |held: &mut bool| *held && heart.load(Ordering::Relaxed);
                            drop(state.changed.wait_while(held, waits));
                        });
                    });
                }
            }
        });
        proxy
    }

    /// What the broker says on a connection with heartbeats arrives only after [`release`](Proxy::release).
    pub fn hold(&self) {
        *self.state.held.lock().unwrap() = true;
    }

    pub fn release(&self) {
        *self.state.held.lock().unwrap() = false;
        self.state.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.over.store(true, Ordering::Relaxed);
        self.release();
        // So that it looks.
        let _ = TcpStream::connect(self.address);
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream, before: &dyn Fn(&[u8])) {
    let mut buffer = [0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        before(&buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
