/* exit.c: the code that a guest gives the test finisher is the exit code of its machine. */
#include "rt.h"

int main(uint64_t hart)
{
	if (hart == 0)
		finish(42);
	return 0;
}
