# make demo    the whole product on this machine, clients, and outages that they do not notice; Ctrl-C ends it
# make test    every test (brings a curl with HTTP/3 into target/ if the machine has none)
# make check   format, lints and documentation
# make sim     the tunnel in 10,000 simulated outages; SEEDS=n for another number
# make outages   gateways, PoPs, links and upstreams killed, stopped and drained under load; prints what clients noticed
# make bench   the chain under load beside its peers; prints the numbers of README.md

CARGO ?= cargo
# Arguments of the demo, such as: make demo DEMO="--pops 3 --upstream http://127.0.0.1:3000"; without outages: make demo DEMO=
DEMO ?= --outages
# Scenarios of a long simulation.
SEEDS ?= 10000

.PHONY: demo test check sim outages bench

demo:
	$(CARGO) build --bins
	target/debug/edge dev $(DEMO)

test:
	@curl=$$(tests/tools/curl.sh) && export TRUNKLINE_CURL="$$curl" && $(CARGO) test
	$(CARGO) test --features interop --test interop

outages:
	$(CARGO) test --test outages -- --include-ignored --nocapture --test-threads=1

check:
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings
	$(CARGO) clippy --all-targets --all-features -- -D warnings
	RUSTDOCFLAGS=-Dwarnings $(CARGO) doc --no-deps

sim:
	TRUNKLINE_SEEDS=$(SEEDS) $(CARGO) test --test sim invariants -- --nocapture

bench:
	$(CARGO) bench --bench chain
