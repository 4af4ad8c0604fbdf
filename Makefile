# logq
#
#   make                  build the extension
#   make install          install it into the PostgreSQL that PG_CONFIG names
#   make demo             four servers, real logs, a million rows, some queries
#   make stop             stop the demo and remove its data
#   make check            every test, in servers of its own
#   make unitcheck        only the plain C tests
#   make cppcheck         static analysis
#   make fuzz             fuzz the decoders (FUZZ_SECONDS=20 for each target)
#   make bench            measure
#   make kafka-tool       the producer for demo, tests and bench
#
# PG_CONFIG chooses the PostgreSQL, WERROR=1 makes warnings errors, SANITIZE=1
# looks for errors at run time (test/sanitize).

PG_CONFIG ?= pg_config

# These targets install nothing into the system's PostgreSQL, and "check" and
# "demo" must work before there is a PostgreSQL at all.  So they are kept apart
# from PGXS, which also has a "check" of its own that only refuses.
OWN_TARGETS = check demo stop unitcheck cppcheck fuzz bench kafka-tool

ifneq ($(filter $(OWN_TARGETS),$(MAKECMDGOALS)),)

export PG_CONFIG
ifeq ($(origin PG_CONFIG),file)
# nobody chose one: let the scripts look for it
unexport PG_CONFIG
endif

PGXS_TARGETS = $(filter-out $(OWN_TARGETS),$(MAKECMDGOALS))

.PHONY: $(OWN_TARGETS) $(PGXS_TARGETS)
.NOTPARALLEL:

check:
	@test/run

demo:
	@test/demo

stop:
	@test/cluster down --demo

unitcheck:
	@test/unitcheck

cppcheck:
	@test/cppcheck

fuzz:
	@test/unitcheck --fuzz

bench:
	@bench/run

# The old one may be running, and several may build it at once
KAFKA_TOOL = test/kafka/logq_kafka_tool

kafka-tool: $(KAFKA_TOOL)

$(KAFKA_TOOL): $(wildcard test/kafka/*.c test/kafka/*.h) Makefile
	@$(CC) -std=gnu99 -O2 -g -Wall -Wextra $(if $(filter 1,$(WERROR)),-Werror) \
		-pthread $(filter %.c,$^) -lrdkafka -lm -o $@.$$$$ && mv -f $@.$$$$ $@

ifneq ($(PGXS_TARGETS),)
$(PGXS_TARGETS):
	@$(MAKE) --no-print-directory $@
endif

else

MODULE_big = logq
EXTENSION = logq
PGFILEDESC = "logq - distributed log search"
OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c src/import/*.c)))

# hiredis has TLS from 1.0 on, if it was built with it, in a library of its own
HIREDIS_SSL := $(shell printf '\043include <hiredis/hiredis.h>\n\043include <hiredis/hiredis_ssl.h>\n' | \
	$(CC) $(CPPFLAGS) -E - >/dev/null 2>&1 && echo yes)
ifneq ($(HIREDIS_SSL),yes)
OBJS := $(filter-out src/redistls.o,$(OBJS))
endif

DATA = $(sort $(wildcard sql/logq--*.sql))

PG_CPPFLAGS = -Isrc -I$(libpq_srcdir)
PG_CFLAGS = -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare \
	-Wno-missing-field-initializers
ifeq ($(WERROR),1)
PG_CFLAGS += -Werror
endif
SHLIB_LINK = $(libpq) -lhiredis -llz4
ifeq ($(SANITIZE),1)
# the server has to be built with the address sanitizer, too
SANITIZERS = -fsanitize=address,undefined -fno-omit-frame-pointer
PG_CFLAGS += $(SANITIZERS)
SHLIB_LINK += $(SANITIZERS)
endif
ifeq ($(HIREDIS_SSL),yes)
PG_CPPFLAGS += -DLOGQ_HIREDIS_SSL
SHLIB_LINK += -lhiredis_ssl -lssl -lcrypto
endif

# JIT inlining of this module would gain nothing and need clang
override with_llvm = no

# The regression tests need a running cluster: "make installcheck" with the
# environment that "test/cluster env" prints, or "make check" for everything.
REGRESS = $(patsubst test/sql/%.sql,%,$(sort $(wildcard test/sql/*.sql)))
REGRESS_OPTS = --inputdir=test --use-existing
CONTRIB_TESTDB = logs
ISOLATION = $(patsubst test/isolation/specs/%.spec,%,$(sort $(wildcard test/isolation/specs/*.spec)))
ISOLATION_OPTS = --inputdir=test/isolation --use-existing
ISOLATION_TESTDB = logs
EXTRA_CLEAN = src/kafka/logq_kafka src/resolve/logq_resolve test/kafka/logq_kafka_tool results regression.diffs regression.out output_iso tmp_check

PGXS := $(shell $(PG_CONFIG) --pgxs)
ifeq ($(PGXS),)
$(error "$(PG_CONFIG)" does not work: run test/setup to install what is needed, or set PG_CONFIG)
endif
include $(PGXS)

# librdkafka runs in a program of its own, never in a server process
READER = src/kafka/logq_kafka

all: $(READER)
$(READER): $(wildcard src/kafka/*.[ch]) Makefile
	$(CC) $(CFLAGS) $(SANITIZERS) -pthread -Isrc $(filter %.c,$^) $(LDFLAGS) -lrdkafka -o $@

# nor does getaddrinfo(), which blocks
RESOLVER = src/resolve/logq_resolve

all: $(RESOLVER)
$(RESOLVER): $(wildcard src/resolve/*.[ch]) Makefile
	$(CC) $(CFLAGS) $(SANITIZERS) -Isrc $(filter %.c,$^) $(LDFLAGS) -o $@

install: install-programs
install-programs: $(READER) $(RESOLVER) installdirs
	$(INSTALL_PROGRAM) $(READER) $(RESOLVER) '$(DESTDIR)$(pkglibdir)/'
uninstall: uninstall-programs
uninstall-programs:
	rm -f $(patsubst %,'$(DESTDIR)$(pkglibdir)/%',$(notdir $(READER) $(RESOLVER)))
.PHONY: install-programs uninstall-programs

# PGXS does not follow headers
$(OBJS): $(wildcard src/*.h src/import/*.h src/resolve/*.h) Makefile

endif
