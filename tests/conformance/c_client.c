/* Uses a server through the C library as an application does.
 *
 *   gcc -DTHREADED c_client.c -o c_client -lzookeeper_mt
 *   ./c_client host:port[/chroot] basic|watches|multi|acl|async|reconnect
 *
 * Prints "ok" and exits with 0, or says on stderr which line saw what.  The znode it is given must be empty.
 * "reconnect" prints "ready" and then expects the server to be stopped and started again.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <zookeeper/zookeeper.h>

#define DEADLINE_SECONDS 30
#define MAX_EVENTS 64

#define CHECK(condition)                                                               \
    do {                                                                               \
        if (!(condition)) {                                                            \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);    \
            exit(1);                                                                   \
        }                                                                              \
    } while (0)

#define EXPECT(wanted, call)                                                           \
    do {                                                                               \
        int rc_ = (call), wanted_ = (wanted);                                          \
        if (rc_ != wanted_) {                                                          \
            fprintf(stderr, "%s:%d: %s = %d (%s), expected %d\n", __FILE__, __LINE__,  \
                    #call, rc_, zerror(rc_), wanted_);                                 \
            exit(1);                                                                   \
        }                                                                              \
    } while (0)

/* What the watchers and completions saw; they run in threads of the library. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int connected, disconnects, completions, auth_result = 1;
static int event_count;
static struct { int type; char path[200]; } events[MAX_EVENTS];

/* Waits, with the lock held, until the condition holds. */
#define AWAIT(condition)                                                               \
    do {                                                                               \
        struct timespec end_;                                                          \
        clock_gettime(CLOCK_REALTIME, &end_);                                          \
        end_.tv_sec += DEADLINE_SECONDS;                                               \
        pthread_mutex_lock(&lock);                                                     \
        while (!(condition))                                                           \
            if (pthread_cond_timedwait(&changed, &lock, &end_)) {                      \
                fprintf(stderr, "%s:%d: never so: %s\n", __FILE__, __LINE__, #condition); \
                exit(1);                                                               \
            }                                                                          \
        pthread_mutex_unlock(&lock);                                                   \
    } while (0)

static void on_session(zhandle_t *zh, int type, int state, const char *path, void *context)
{
    (void)zh, (void)path, (void)context;
    if (type != ZOO_SESSION_EVENT)
        return;
    pthread_mutex_lock(&lock);
    if (connected && state != ZOO_CONNECTED_STATE)
        disconnects++;
    connected = state == ZOO_CONNECTED_STATE;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static void on_event(zhandle_t *zh, int type, int state, const char *path, void *context)
{
    (void)zh, (void)state, (void)context;
    if (type == ZOO_SESSION_EVENT)
        return;
    pthread_mutex_lock(&lock);
    CHECK(event_count < MAX_EVENTS);
    events[event_count].type = type;
    snprintf(events[event_count++].path, sizeof events[0].path, "%s", path);
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static void expect_event(int number, int type, const char *path)
{
    AWAIT(event_count > number);
    CHECK(events[number].type == type);
    CHECK(!strcmp(events[number].path, path));
}

static zhandle_t *attach(const char *hosts)
{
    zhandle_t *zh = zookeeper_init(hosts, on_session, 10000, NULL, NULL, 0);
    CHECK(zh);
    AWAIT(connected);
    return zh;
}

static void basic(zhandle_t *zh)
{
    char path[200], data[100];
    struct Stat stat;
    struct String_vector names;
    int length;

    EXPECT(ZOK, zoo_create(zh, "/a", "hello", 5, &ZOO_OPEN_ACL_UNSAFE, 0, path, sizeof path));
    CHECK(!strcmp(path, "/a"));
    EXPECT(ZNODEEXISTS, zoo_create(zh, "/a", "", 0, &ZOO_OPEN_ACL_UNSAFE, 0, path, sizeof path));
    EXPECT(ZNONODE, zoo_create(zh, "/x/y", "", 0, &ZOO_OPEN_ACL_UNSAFE, 0, path, sizeof path));
    length = sizeof data;
    EXPECT(ZOK, zoo_get(zh, "/a", 0, data, &length, &stat));
    CHECK(length == 5 && !memcmp(data, "hello", 5));
    CHECK(stat.version == 0 && stat.dataLength == 5 && stat.czxid == stat.mzxid && stat.ephemeralOwner == 0);
    EXPECT(ZOK, zoo_set2(zh, "/a", "bye", 3, 0, &stat));
    CHECK(stat.version == 1 && stat.mzxid > stat.czxid);
    EXPECT(ZBADVERSION, zoo_set(zh, "/a", "no", 2, 0));

    /* length -1 is null data, and comes back as such */
    EXPECT(ZOK, zoo_create(zh, "/null", NULL, -1, &ZOO_OPEN_ACL_UNSAFE, 0, path, sizeof path));
    length = sizeof data;
    EXPECT(ZOK, zoo_get(zh, "/null", 0, data, &length, NULL));
    CHECK(length == -1);
    EXPECT(ZOK, zoo_create(zh, "/empty", "", 0, &ZOO_OPEN_ACL_UNSAFE, 0, path, sizeof path));
    length = sizeof data;
    EXPECT(ZOK, zoo_get(zh, "/empty", 0, data, &length, NULL));
    CHECK(length == 0);

    EXPECT(ZOK, zoo_create2(zh, "/a/s-", "", 0, &ZOO_OPEN_ACL_UNSAFE, ZOO_EPHEMERAL | ZOO_SEQUENCE,
                            path, sizeof path, &stat));
    CHECK(!strcmp(path, "/a/s-0000000000"));
    CHECK(stat.ephemeralOwner == zoo_client_id(zh)->client_id);
    EXPECT(ZOK, zoo_create(zh, "/a/s-", "", 0, &ZOO_OPEN_ACL_UNSAFE, ZOO_EPHEMERAL | ZOO_SEQUENCE, path,
                           sizeof path));
    CHECK(!strcmp(path, "/a/s-0000000001"));
    EXPECT(ZNOCHILDRENFOREPHEMERALS,
           zoo_create(zh, "/a/s-0000000001/c", "", 0, &ZOO_OPEN_ACL_UNSAFE, 0, path, sizeof path));
    EXPECT(ZOK, zoo_get_children2(zh, "/a", 0, &names, &stat));
    CHECK(names.count == 2 && stat.numChildren == 2 && stat.cversion == 2);
    deallocate_String_vector(&names);
    EXPECT(ZNOTEMPTY, zoo_delete(zh, "/a", -1));
    EXPECT(ZOK, zoo_delete(zh, "/a/s-0000000000", -1));
    EXPECT(ZOK, zoo_delete(zh, "/a/s-0000000001", 0));
    EXPECT(ZBADVERSION, zoo_delete(zh, "/a", 0));
    EXPECT(ZOK, zoo_delete(zh, "/a", 1));
    EXPECT(ZNONODE, zoo_exists(zh, "/a", 0, &stat));
}

static void watches(zhandle_t *zh)
{
    struct Stat stat;
    struct String_vector names;
    char data[10];
    int length = sizeof data;

    EXPECT(ZNONODE, zoo_wexists(zh, "/w", on_event, NULL, &stat));
    EXPECT(ZOK, zoo_create(zh, "/w", "0", 1, &ZOO_OPEN_ACL_UNSAFE, 0, NULL, 0));
    expect_event(0, ZOO_CREATED_EVENT, "/w");
    EXPECT(ZOK, zoo_wget(zh, "/w", on_event, NULL, data, &length, &stat));
    EXPECT(ZOK, zoo_set(zh, "/w", "1", 1, -1));
    EXPECT(ZOK, zoo_set(zh, "/w", "2", 1, -1));
    expect_event(1, ZOO_CHANGED_EVENT, "/w");
    EXPECT(ZOK, zoo_wget_children(zh, "/w", on_event, NULL, &names));
    deallocate_String_vector(&names);
    EXPECT(ZOK, zoo_create(zh, "/w/c", "", 0, &ZOO_OPEN_ACL_UNSAFE, 0, NULL, 0));
    expect_event(2, ZOO_CHILD_EVENT, "/w");
    EXPECT(ZOK, zoo_wexists(zh, "/w/c", on_event, NULL, &stat));
    EXPECT(ZOK, zoo_delete(zh, "/w/c", -1));
    expect_event(3, ZOO_DELETED_EVENT, "/w/c");
    EXPECT(ZOK, zoo_set(zh, "/w", "3", 1, -1));
    EXPECT(ZOK, zoo_exists(zh, "/w", 0, &stat));
    CHECK(event_count == 4);
}

static void multi(zhandle_t *zh)
{
    char path[100], sequential[100];
    struct Stat stat;
    zoo_op_t ops[5];
    zoo_op_result_t results[5];

    zoo_create_op_init(&ops[0], "/m", "0", 1, &ZOO_OPEN_ACL_UNSAFE, 0, path, sizeof path);
    zoo_set_op_init(&ops[1], "/m", "1", 1, 0, &stat);
    zoo_check_op_init(&ops[2], "/m", 1);
    zoo_create_op_init(&ops[3], "/m/s-", "", 0, &ZOO_OPEN_ACL_UNSAFE, ZOO_SEQUENCE, sequential, sizeof sequential);
    zoo_delete_op_init(&ops[4], "/m/s-0000000000", -1);
    EXPECT(ZOK, zoo_multi(zh, 5, ops, results));
    CHECK(!strcmp(path, "/m") && !strcmp(sequential, "/m/s-0000000000") && stat.version == 1);
    for (int i = 0; i < 5; i++)
        EXPECT(ZOK, results[i].err);

    zoo_set_op_init(&ops[0], "/m", "2", 1, -1, &stat);
    zoo_check_op_init(&ops[1], "/m", 99);
    zoo_delete_op_init(&ops[2], "/m", -1);
    EXPECT(ZBADVERSION, zoo_multi(zh, 3, ops, results));
    EXPECT(ZOK, results[0].err);
    EXPECT(ZBADVERSION, results[1].err);
    EXPECT(ZRUNTIMEINCONSISTENCY, results[2].err);
    EXPECT(ZOK, zoo_exists(zh, "/m", 0, &stat));
    CHECK(stat.version == 1);
}

static void on_auth(int rc, const void *data)
{
    (void)data;
    pthread_mutex_lock(&lock);
    auth_result = rc;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static void acl(zhandle_t *zh, const char *hosts)
{
    struct ACL_vector found;
    struct Stat stat;
    char data[10];
    int length = sizeof data;
    zhandle_t *stranger;

    EXPECT(ZOK, zoo_add_auth(zh, "digest", "joe:secret", 10, on_auth, NULL));
    AWAIT(auth_result != 1);
    EXPECT(ZOK, auth_result);
    EXPECT(ZOK, zoo_create(zh, "/p", "x", 1, &ZOO_CREATOR_ALL_ACL, 0, NULL, 0));
    EXPECT(ZOK, zoo_get_acl(zh, "/p", &found, &stat));
    CHECK(found.count == 1 && found.data[0].perms == ZOO_PERM_ALL);
    CHECK(!strcmp(found.data[0].id.scheme, "digest") && !strncmp(found.data[0].id.id, "joe:", 4));
    deallocate_ACL_vector(&found);
    connected = 0;
    stranger = attach(hosts);
    EXPECT(ZNOAUTH, zoo_get(stranger, "/p", 0, data, &length, NULL));
    EXPECT(ZNOAUTH, zoo_set(stranger, "/p", "y", 1, -1));
    EXPECT(ZNOAUTH, zoo_create(stranger, "/p/c", "", 0, &ZOO_OPEN_ACL_UNSAFE, 0, NULL, 0));
    EXPECT(ZINVALIDACL, zoo_create(stranger, "/q", "", 0, &ZOO_CREATOR_ALL_ACL, 0, NULL, 0));
    EXPECT(ZOK, zoo_set_acl(zh, "/p", 0, &ZOO_READ_ACL_UNSAFE));
    EXPECT(ZOK, zoo_get(stranger, "/p", 0, data, &length, NULL));
    EXPECT(ZNOAUTH, zoo_set(stranger, "/p", "y", 1, -1));
    zookeeper_close(stranger);
}

static void on_created(int rc, const char *value, const void *data)
{
    char expected[40];

    snprintf(expected, sizeof expected, "/n%d", (int)(long)data);
    EXPECT(ZOK, rc);
    CHECK(!strcmp(value, expected));
    pthread_mutex_lock(&lock);
    CHECK(completions == (int)(long)data); /* in the order of the requests */
    completions++;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static void async(zhandle_t *zh)
{
    struct String_vector names;

    for (long i = 0; i < 1000; i++) {
        char path[40];

        snprintf(path, sizeof path, "/n%ld", i);
        EXPECT(ZOK, zoo_acreate(zh, path, "x", 1, &ZOO_OPEN_ACL_UNSAFE, 0, on_created, (void *)i));
    }
    AWAIT(completions == 1000);
    EXPECT(ZOK, zoo_get_children(zh, "/", 0, &names));
    CHECK(names.count == 1000);
    deallocate_String_vector(&names);
}

static void reconnect(zhandle_t *zh)
{
    struct Stat stat;
    clientid_t before = *zoo_client_id(zh);
    char data[10];
    int length = sizeof data;

    EXPECT(ZOK, zoo_create(zh, "/e", "x", 1, &ZOO_OPEN_ACL_UNSAFE, ZOO_EPHEMERAL, NULL, 0));
    EXPECT(ZOK, zoo_wget(zh, "/e", on_event, NULL, data, &length, &stat));
    puts("ready");
    fflush(stdout);
    AWAIT(disconnects > 0 && connected);
    CHECK(!memcmp(&before, zoo_client_id(zh), sizeof before));
    EXPECT(ZOK, zoo_exists(zh, "/e", 0, &stat));
    CHECK(stat.ephemeralOwner == before.client_id);
    /* the library has set the watch again */
    EXPECT(ZOK, zoo_set(zh, "/e", "y", 1, -1));
    expect_event(0, ZOO_CHANGED_EVENT, "/e");
}

int main(int argc, char **argv)
{
    const char *scenario;
    zhandle_t *zh;

    if (argc != 3) {
        fprintf(stderr, "usage: %s hosts scenario\n", argv[0]);
        return 2;
    }
    scenario = argv[2];
    zoo_set_debug_level(ZOO_LOG_LEVEL_ERROR);
    zh = attach(argv[1]);
    if (!strcmp(scenario, "basic"))
        basic(zh);
    else if (!strcmp(scenario, "watches"))
        watches(zh);
    else if (!strcmp(scenario, "multi"))
        multi(zh);
    else if (!strcmp(scenario, "acl"))
        acl(zh, argv[1]);
    else if (!strcmp(scenario, "async"))
        async(zh);
    else if (!strcmp(scenario, "reconnect"))
        reconnect(zh);
    else
        CHECK(!"a known scenario");
    EXPECT(ZOK, zookeeper_close(zh));
    puts("ok");
    return 0;
}
