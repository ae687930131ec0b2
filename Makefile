# make demo    the whole product on this machine, clients, and outages that they do not notice; Ctrl-C ends it
# make test    every test (brings a curl with HTTP/3 into target/ if the machine has none)
# make check   format, lints and documentation
# make sim     the tunnel in 10,000 simulated outages; SEEDS=n for another number
# make outages   gateways, PoPs, links and upstreams killed, stopped and drained under load; prints what clients noticed
#                (a quarter of an hour; RATE=n requests per second, LARGE=n bytes each way in row 7, SPIN=n processes that spin beside)
# make interop      QUIC and HTTP/3 with stacks that others wrote, and the chain on bad links (root; about 20 minutes)
# make interop-ci   the part of it that .ci/run has (root; about three minutes). What a machine cannot do is said and
#                   left out; INTEROP_REQUIRED=1 makes that a failure
# make release   target/released/edge and origin, for production: guided by a profile of load (a quarter of an hour; needs
#                rustup's component llvm-tools)
# make bench   these under load beside their peers; prints the numbers of README.md
# make bench-check    our load generator beside h2load on the same chain
# make bench-readme   puts what the last `make bench` found into README.md and benches/chain.svg
# make bench-ci   instructions of each stage against benches/stages/baseline.toml (needs valgrind); BASELINE=write moves it

CARGO ?= cargo
# Arguments of the demo, such as: make demo DEMO="--pops 3 --upstream http://127.0.0.1:3000"; without outages: make demo DEMO=
DEMO ?= --outages
# Scenarios of a long simulation.
SEEDS ?= 10000
# The load of the outages: requests per second, bytes of a long download, bytes each way under links that are cut, processes that do
# nothing but take the processor away.
RATE ?= 200
DOWNLOAD ?= 10485760
LARGE ?= 1073741824
SPIN ?= 0

# All luck of interop and interop-ci follows from it; without one it is chosen and printed.
SEED ?=
INTEROP := target/debug/interop-runner
INTEROP_SEED := $(if $(SEED),--seed $(SEED))
# What passed every time, also on a machine loaded five times over.
INTEROP_CI := --clients trunkline,aioquic,curl --servers trunkline,aioquic,nginx,haproxy --jobs 3 \
  --cases handshake,longrtt,chacha20,multiplexing,retry,resumption,zerortt,http3,keyupdate,ecn,amplificationlimit,transferloss,transfercorruption,ipv6,v2,rebind-port,rebind-addr \
  --minutes 20 --chain drain-under-transfers,pop-goes-dark,tunnel-dark-for-2s,rebind-while-links-close,gateway-behind-nat,retry-on-tunnel

.PHONY: demo test check sim outages release bench bench-check bench-readme bench-ci interop interop-ci interop-programs

demo:
	$(CARGO) build --bins
	target/debug/edge dev $(DEMO)

test:
	@curl=$$(tests/tools/curl.sh) && export TRUNKLINE_CURL="$$curl" && $(CARGO) test --no-fail-fast
	$(CARGO) test --no-fail-fast --features interop --bin interop-runner --test interop

outages:
	$(CARGO) test --release --test outages --no-run
	@spinning=; trap 'kill $$spinning 2>/dev/null' EXIT INT TERM; \
	for n in $$(seq $(SPIN)); do sh -c 'while :; do :; done' & spinning="$$spinning $$!"; done; \
	TRUNKLINE_OUTAGES_RATE=$(RATE) TRUNKLINE_OUTAGES_DOWNLOAD=$(DOWNLOAD) TRUNKLINE_OUTAGES_LARGE=$(LARGE) \
		$(CARGO) test --release --test outages -- --include-ignored --nocapture --test-threads=1

check:
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings
	$(CARGO) clippy --all-targets --all-features -- -D warnings
	RUSTDOCFLAGS=-Dwarnings $(CARGO) doc --no-deps

sim:
	TRUNKLINE_SEEDS=$(SEEDS) $(CARGO) test --test sim invariants -- --nocapture

# As `make test` builds them: an integration test makes cargo build every program.
interop-programs:
	$(CARGO) test --features interop --test interop --no-run

interop: interop-programs
	INTEROP_REQUIRED=1 $(INTEROP) all $(INTEROP_SEED)

ifeq ($(shell id -u),0)
interop-ci: interop-programs
	$(INTEROP) all $(INTEROP_CI) $(INTEROP_SEED)
else
interop-ci:
	@echo "*** interop-ci: SKIPPED, since network namespaces and TUN devices need root."
	@echo "*** Run it with: sudo --preserve-env=PATH,HOME make interop-ci"
	@test "$$INTEROP_REQUIRED" != 1
endif

RELEASED := target/released/origin
$(RELEASED): Cargo.toml Cargo.lock benches/release.sh $(shell find src -name '*.rs')
	benches/release.sh

release: $(RELEASED)

bench: $(RELEASED)
	BENCH_PROGRAMS=target/released $(CARGO) bench --bench chain

bench-check: $(RELEASED)
	BENCH_PROGRAMS=target/released $(CARGO) bench --bench chain -- check

bench-readme:
	$(CARGO) bench --bench chain -- readme

# One command moves the baseline on purpose: make bench-ci BASELINE=write
BASELINE ?=
bench-ci:
	$(CARGO) bench --bench stages -- --instructions $(if $(filter write,$(BASELINE)),--write)
