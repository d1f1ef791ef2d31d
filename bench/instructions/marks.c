/* What the process under callgrind tells it: count from here, count to here. Without valgrind these do nothing. */
#include <valgrind/callgrind.h>

void begin(void)
{
    CALLGRIND_ZERO_STATS;
    CALLGRIND_START_INSTRUMENTATION;
}

void end(void)
{
    CALLGRIND_STOP_INSTRUMENTATION;
    CALLGRIND_DUMP_STATS;
}

int running(void)
{
    return (int)RUNNING_ON_VALGRIND;
}
