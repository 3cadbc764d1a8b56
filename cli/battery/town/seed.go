package town

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"
)

// SeedEnv names the environment variable that holds the seed of a schedule to be repeated.
const SeedEnv = "WARDER_SEED"

// Random gives a schedule's source of chance, and logs the seed with the command that runs the schedule again. The same
// seed gives the same faults in the same order; what the processes make of them is their own.
func Random(t testing.TB) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv(SeedEnv); text != "" {
		given, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("%s must be a number: %v", SeedEnv, err)
		}
		seed = given
	}
	t.Logf("to repeat: make faults RUN='^%s$' SEED=%d", t.Name(), seed)
	return rand.New(rand.NewPCG(seed, seed))
}
