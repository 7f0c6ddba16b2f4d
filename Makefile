# fathom. `make help` lists the targets.
#
# config = release | debug | sanitize | tsan | coverage | fuzz   how to compile
# CUDA   = 0 | 1                               default: 1 when nvcc is found
# EMBED  = 0 | 1                               default: 1 when models/minnow holds weights; 0 reads models/minnow instead

config ?= release
NVCC   ?= $(firstword $(wildcard /usr/local/cuda/bin/nvcc) $(shell command -v nvcc 2>/dev/null))
CUDA   ?= $(if $(NVCC),1,0)
EMBED  ?= $(if $(wildcard models/minnow/*.safetensors),1,0)
CXX    ?= g++

BUILD := build/$(config)-cuda$(CUDA)-embed$(EMBED)
# Relative, also where it was given absolute: ccache writes dependencies relative to CCACHE_BASEDIR, and make must know them.
override BUILD := $(BUILD:$(CURDIR)/%=%)
CCACHE := $(shell command -v ccache 2>/dev/null)
export CCACHE_BASEDIR := $(CURDIR)
export CCACHE_NOHASHDIR := 1

WARN := -Wall -Wextra -Wshadow -Wconversion
# -ffp-contract=off: a fused multiply-add appears where the source says so, on every compiler.
BASE := -std=c++20 -I. -DFMT_HEADER_ONLY -ffp-contract=off -fPIE -MMD -MP $(WARN)
HARDEN := -D_FORTIFY_SOURCE=2 -fstack-protector-strong
LDHARD := -pie -Wl,-z,relro,-z,now
ifeq ($(config),release)
  FLAGS := -O2 -g1 $(HARDEN)
else ifeq ($(config),debug)
  FLAGS := -O0 -g
else ifeq ($(config),sanitize)
  FLAGS := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
  LDSAN := -fsanitize=address,undefined
else ifeq ($(config),tsan)
  FLAGS := -O1 -g -fsanitize=thread
  LDSAN := -fsanitize=thread
else ifeq ($(config),coverage)
  CXX := clang++
  FLAGS := -O0 -g1 -fprofile-instr-generate -fcoverage-mapping
  LDSAN := -fprofile-instr-generate
else ifeq ($(config),fuzz)
  CXX := clang++
  FLAGS := -O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined
  LDSAN := -fsanitize=address,undefined
else
  $(error config must be release, debug, sanitize, tsan, coverage or fuzz, not '$(config)')
endif
CXXFLAGS := $(BASE) $(FLAGS)

# Instruction sets are chosen at run time; a file named *_avx2.cpp or *_avx512*.cpp alone may use them.
ISA = $(if $(findstring _avx512bf16,$<),-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512bf16 -mavx512vbmi -mfma,\
      $(if $(findstring _avx512vbmi,$<),-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vbmi -mfma,\
      $(if $(findstring _avx512,$<),-mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma,\
      $(if $(findstring _avx2,$<),-mavx2 -mfma -mf16c))))

# libfathom: everything but main.cpp. Static where Debian has an archive.
LIB_SRC := $(sort $(wildcard src/*.cpp src/*/*.cpp tokenizer/*.cpp))
FUZZ_SRC := $(sort $(wildcard tests/fuzz/target.cpp tests/fuzz/fuzz_*.cpp))
TEST_SRC := $(sort $(wildcard tests/*.cpp tests/support/*.cpp)) $(filter-out tests/fuzz/fuzz_main.cpp,$(FUZZ_SRC))
LIBS := -l:libpcre2-8.a -l:libutf8proc.a -l:libedit.a -l:libtinfo.a -l:libbsd.a -l:libmd.a -lsentencepiece -lpthread

ifeq ($(CUDA),1)
  CUDA_HOME := $(patsubst %/bin/,%,$(dir $(realpath $(NVCC))))
  CUDA_SRC := $(sort $(wildcard cuda/*.cu))
  LIB_SRC += $(filter-out cuda/none.cpp,$(sort $(wildcard cuda/*.cpp)))
  TEST_SRC += $(sort $(wildcard tests/cuda/*.cpp))
  CXXFLAGS += -DFATHOM_CUDA_BUILD=1 -isystem $(CUDA_HOME)/include
  # One native target and one portable PTX: Hopper's own instructions sit behind __CUDA_ARCH_FEAT_SM90_ALL.
  GENCODE := -gencode arch=compute_90a,code=sm_90a -gencode arch=compute_80,code=compute_80
  NVCCFLAGS := -std=c++20 -O3 -lineinfo -I. -DFMT_HEADER_ONLY -DFATHOM_CUDA_BUILD=1 $(GENCODE) --expt-relaxed-constexpr \
               -Xcompiler -fPIE,-Wall,-Wextra,-ffp-contract=off
  LIBS += -L$(CUDA_HOME)/lib64 -L$(CUDA_HOME)/targets/x86_64-linux/lib -lcudart_static -ldl -lrt
else
  LIB_SRC += cuda/none.cpp
endif

ifeq ($(EMBED),1)
  CXXFLAGS += -DFATHOM_EMBED=1
  EMBED_OBJ := $(BUILD)/embed.o
endif

LIB_OBJ := $(LIB_SRC:%.cpp=$(BUILD)/%.o) $(CUDA_SRC:%.cu=$(BUILD)/%.cu.o) $(EMBED_OBJ)
TEST_OBJ := $(TEST_SRC:%.cpp=$(BUILD)/%.o)

.PHONY: bench-kernels bench-gemm all demo test test-cuda check format bench ptxas clean install help fuzz fuzz-program coverage
.DELETE_ON_ERROR:
all: fathom

# Dependencies are looked for once; the script installs nothing that is there.
$(BUILD)/.deps: scripts/install-deps.sh
	@scripts/install-deps.sh
	@mkdir -p $(@D) && touch $@

fathom: $(BUILD)/fathom
	@cp -f $< $@

$(BUILD)/fathom: $(BUILD)/main.o $(LIB_OBJ)
	@echo "  LINK $@"
	@$(CXX) $(LDHARD) $(LDSAN) -o $@ $^ $(LIBS)

$(BUILD)/tests/all: $(TEST_OBJ) $(LIB_OBJ)
	@echo "  LINK $@"
	@$(CXX) $(LDHARD) $(LDSAN) -o $@ $^ $(LIBS)

# Speed of the CUDA kernels on random weights: build/.../tests/bench_kernels v2-lite gemv attention.
$(BUILD)/tests/bench_kernels: $(BUILD)/tests/cuda/bench/bench_kernels.o \
    $(BUILD)/tests/cuda/bench/bench_prompt_attention.o $(LIB_OBJ)
	@echo "  LINK $@"
	@$(CXX) $(LDHARD) $(LDSAN) -o $@ $^ $(LIBS)

# Our GEMMs beside cuBLASLt's, the only program that links it: build/.../tests/bench_gemm fp8 grouped.
$(BUILD)/tests/bench_gemm: $(BUILD)/tests/cuda/bench/bench_gemm.o $(LIB_OBJ)
	@echo "  LINK $@"
	@$(CXX) $(LDHARD) $(LDSAN) -o $@ $^ $(LIBS) -lcublasLt

# Test code is compiled for compile time; what it tests is compiled as shipped, or with the sanitizers asked for.
$(BUILD)/tests/%.o: CXXFLAGS += $(if $(filter release,$(config)),-O1,-O0) -g0 -DDOCTEST_CONFIG_SUPER_FAST_ASSERTS \
    $(if $(filter release,$(config)),-DFATHOM_TEST_RELEASE) \
    $(if $(filter coverage,$(config)),-fno-profile-instr-generate -fno-coverage-mapping)

# One object of every program names the file that its profile is added to, also where a test cleans the environment.
ifeq ($(config),coverage)
$(BUILD)/src/base/error.o: CXXFLAGS += -fprofile-instr-generate=$(CURDIR)/$(BUILD)/profile-%m.profraw
endif

# The commit is known to one file only, so that a commit does not rebuild the rest.
$(BUILD)/src/app/version.o: $(wildcard $(shell git rev-parse --git-path logs/HEAD 2>/dev/null))
$(BUILD)/src/app/version.o: CXXFLAGS += -DFATHOM_COMMIT='"$(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)"'

$(BUILD)/%.o: %.cpp | $(BUILD)/.deps
	@mkdir -p $(@D)
	@echo "  CXX  $<"
	@$(CCACHE) $(CXX) $(CXXFLAGS) $(ISA) -c -o $@ $<

$(BUILD)/embed.S: scripts/embed.sh $(wildcard models/minnow/*)
	@mkdir -p $(@D)
	@scripts/embed.sh models/minnow > $@

$(BUILD)/embed.o: $(BUILD)/embed.S | $(BUILD)/.deps
	@echo "  AS   $<"
	@$(CXX) -c -o $@ $<

$(BUILD)/%.cu.o: %.cu | $(BUILD)/.deps
	@mkdir -p $(@D)
	@echo "  NVCC $<"
	@$(NVCC) $(NVCCFLAGS) -MD -MP -MF $(@:.o=.d) -c -o $@ $<

-include $(LIB_OBJ:.o=.d) $(TEST_OBJ:.o=.d) $(BUILD)/main.d $(wildcard $(BUILD)/tests/cuda/bench/*.d)

demo: fathom
	@scripts/demo.sh ./fathom

# TEST=pattern runs the test cases whose names match, e.g. make test TEST='*linear*'.
test: fathom $(BUILD)/tests/all check
	@scripts/run-tests.sh $(BUILD)/tests/all $(if $(TEST),--test-case='$(TEST)')

test-cuda: fathom $(BUILD)/tests/all
	@FATHOM_TEST_CUDA=1 $(BUILD)/tests/all --test-case='cuda*'

check:
	@scripts/check-layers.sh

format:
	clang-format -i main.cpp $$(git ls-files '*.h' '*.cpp' '*.cu' '*.cuh')

bench: fathom
	./fathom bench

bench-kernels: $(BUILD)/tests/bench_kernels
bench-gemm: $(BUILD)/tests/bench_gemm

# Registers, shared memory and spills of every kernel.
ptxas:
	@for f in $(CUDA_SRC); do $(NVCC) $(NVCCFLAGS) -Xptxas -v -c -o /dev/null $$f 2>&1 | scripts/ptxas-table.sh $$f; done

# SECONDS=n for each target; findings stay in build/fuzz-findings/. Needs clang++ and its runtime (libclang-rt-dev).
SECONDS ?= 60
fuzz:
	@$(MAKE) config=fuzz CUDA=0 EMBED=0 fuzz-program
	@scripts/fuzz.sh build/fuzz-cuda0-embed0/tests/fuzz/fuzz $(SECONDS) $(TARGET)

# One program holds every target.
fuzz-program: $(BUILD)/tests/fuzz/fuzz
$(BUILD)/tests/fuzz/fuzz: $(FUZZ_SRC:%.cpp=$(BUILD)/%.o) $(LIB_OBJ)
	@echo "  LINK $@"
	@$(CXX) $(LDSAN) -fsanitize=fuzzer -o $@ $^ $(LIBS)

coverage:
	@rm -f build/coverage-cuda0-embed$(EMBED)/profile-*
	@$(MAKE) config=coverage CUDA=0 EMBED=$(EMBED) test
	@scripts/coverage.sh build/coverage-cuda0-embed$(EMBED)

install: fathom
	install -D -m 0755 fathom $(DESTDIR)$(or $(PREFIX),/usr/local)/bin/fathom

clean:
	rm -rf build fathom

help:
	@echo 'make            build ./fathom (config=release|debug|sanitize|tsan|coverage|fuzz, CUDA=0|1, EMBED=0|1)'
	@echo 'make demo       build and ask the built-in model a question'
	@echo 'make test       build and run every test that needs no GPU (TEST=pattern)'
	@echo 'make test-cuda  the tests that need a GPU'
	@echo 'make check      layering and lint'
	@echo 'make format     clang-format'
	@echo 'make fuzz       libFuzzer targets, SECONDS=60 each (TARGET=name for one)'
	@echo 'make coverage   branch coverage of the code that reads untrusted bytes (needs clang++ and llvm)'
	@echo 'make bench      speed of the built-in model on this machine'
	@echo 'make bench-kernels  build the benchmark of the CUDA kernels'
	@echo 'make bench-gemm  build the benchmark of the GEMMs beside cuBLASLt'
	@echo 'make ptxas      registers and spills of every kernel'
	@echo 'make install    to PREFIX (/usr/local)'
