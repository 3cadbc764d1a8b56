/*
 * A PKCS#11 module in front of another one, with faults. For tests only.
 *
 * PROXY_MODULE  the module behind it
 * PROXY_CALLS   a file to which each call appends its function's name
 * PROXY_FAULTS  a file of lines, read at each call; it may change while the module runs:
 *
 *   FUNCTION rv 0x30        the function gives this code, and is not called
 *   FUNCTION sleep 250      milliseconds before it is called
 *   FUNCTION hang 0         never returns
 *   FUNCTION crash 0        SIGSEGV
 *   FUNCTION drop 0         every session is closed first, as a token does that was reset
 *   FUNCTION leak 0         C_GetAttributeValue says that every key is extractable
 *   C_GetTokenInfo flags 2  the token shows these flags besides its own
 *   FUNCTION mech 0x210a    the function refuses this mechanism with CKR_MECHANISM_INVALID
 *
 * A line whose FUNCTION has '!' before it strikes once: the file is removed by the one who acts on it.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "pkcs11go.h"

static CK_FUNCTION_LIST_PTR real;
static CK_FUNCTION_LIST ours;
static CK_SLOT_ID slot;

static void record(const char *name)
{
	char line[64];
	const char *path = getenv("PROXY_CALLS");
	int n = snprintf(line, sizeof line, "%s\n", name), fd = path ? open(path, O_WRONLY | O_APPEND | O_CREAT, 0600) : -1;
	if (fd >= 0) {
		if (write(fd, line, n) != n)
			abort();
		close(fd);
	}
}

/* fault acts on the first line for this function; it says whether the call ends here, with *rv. */
static int fault(const char *name, CK_MECHANISM_TYPE mechanism, int *leak, CK_RV *rv)
{
	char function[64], kind[16];
	unsigned long value;
	const char *path = getenv("PROXY_FAULTS");
	FILE *f = path ? fopen(path, "r") : NULL;
	int found = 0;

	record(name);
	while (f && !found && fscanf(f, "%63s %15s %li", function, kind, (long *)&value) == 3) {
		int once = function[0] == '!';
		if (strcmp(function + once, name) != 0 || (strcmp(kind, "mech") == 0 && value != mechanism))
			continue;
		if (once && unlink(path) != 0)
			continue;
		found = 1;
	}
	if (f)
		fclose(f);
	if (!found)
		return 0;
	*rv = CKR_MECHANISM_INVALID;
	if (strcmp(kind, "flags") == 0)
		*leak = value;
	if (strcmp(kind, "rv") == 0)
		*rv = value;
	else if (strcmp(kind, "hang") == 0)
		for (;;)
			pause();
	else if (strcmp(kind, "crash") == 0)
		raise(SIGSEGV);
	else if (strcmp(kind, "sleep") == 0)
		usleep(value * 1000);
	else if (strcmp(kind, "drop") == 0)
		real->C_CloseAllSessions(slot);
	else if (strcmp(kind, "leak") == 0 && leak)
		*leak = 1;
	return strcmp(kind, "rv") == 0 || strcmp(kind, "mech") == 0;
}

#define CALL(name, mechanism, arguments)                               \
	{                                                              \
		CK_RV rv;                                              \
		if (fault(#name, mechanism, NULL, &rv))                \
			return rv;                                     \
		return real->name arguments;                           \
	}
#define NONE ((CK_MECHANISM_TYPE)-1)

static CK_RV p_Initialize(CK_VOID_PTR a) CALL(C_Initialize, NONE, (a))
static CK_RV p_GetSlotList(CK_BBOOL p, CK_SLOT_ID_PTR l, CK_ULONG_PTR n) CALL(C_GetSlotList, NONE, (p, l, n))
static CK_RV p_Login(CK_SESSION_HANDLE s, CK_USER_TYPE u, CK_UTF8CHAR_PTR p, CK_ULONG n) CALL(C_Login, NONE, (s, u, p, n))
static CK_RV p_CloseSession(CK_SESSION_HANDLE s) CALL(C_CloseSession, NONE, (s))
static CK_RV p_FindObjectsInit(CK_SESSION_HANDLE s, CK_ATTRIBUTE_PTR t, CK_ULONG n) CALL(C_FindObjectsInit, NONE, (s, t, n))
static CK_RV p_DecryptInit(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE k) CALL(C_DecryptInit, m->mechanism, (s, m, k))
static CK_RV p_Decrypt(CK_SESSION_HANDLE s, CK_BYTE_PTR c, CK_ULONG n, CK_BYTE_PTR p, CK_ULONG_PTR o) CALL(C_Decrypt, NONE, (s, c, n, p, o))
static CK_RV p_SignInit(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE k) CALL(C_SignInit, m->mechanism, (s, m, k))
static CK_RV p_Sign(CK_SESSION_HANDLE s, CK_BYTE_PTR d, CK_ULONG n, CK_BYTE_PTR g, CK_ULONG_PTR o) CALL(C_Sign, NONE, (s, d, n, g, o))
static CK_RV p_GenerateKey(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_OBJECT_HANDLE_PTR k) CALL(C_GenerateKey, m->mechanism, (s, m, t, n, k))
static CK_RV p_GenerateKeyPair(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_ATTRIBUTE_PTR a, CK_ULONG n, CK_ATTRIBUTE_PTR b, CK_ULONG o, CK_OBJECT_HANDLE_PTR p, CK_OBJECT_HANDLE_PTR q) CALL(C_GenerateKeyPair, m->mechanism, (s, m, a, n, b, o, p, q))
static CK_RV p_WrapKey(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE w, CK_OBJECT_HANDLE k, CK_BYTE_PTR o, CK_ULONG_PTR n) CALL(C_WrapKey, m->mechanism, (s, m, w, k, o, n))
static CK_RV p_UnwrapKey(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE w, CK_BYTE_PTR b, CK_ULONG n, CK_ATTRIBUTE_PTR t, CK_ULONG c, CK_OBJECT_HANDLE_PTR k) CALL(C_UnwrapKey, m->mechanism, (s, m, w, b, n, t, c, k))

static CK_RV p_OpenSession(CK_SLOT_ID i, CK_FLAGS f, CK_VOID_PTR a, CK_NOTIFY n, CK_SESSION_HANDLE_PTR s)
{
	CK_RV rv;
	slot = i;
	if (fault("C_OpenSession", NONE, NULL, &rv))
		return rv;
	return real->C_OpenSession(i, f, a, n, s);
}

static CK_RV p_GetTokenInfo(CK_SLOT_ID i, CK_TOKEN_INFO_PTR t)
{
	CK_RV rv;
	int flags = 0;
	if (fault("C_GetTokenInfo", NONE, &flags, &rv))
		return rv;
	rv = real->C_GetTokenInfo(i, t);
	t->flags |= flags;
	return rv;
}

static CK_RV p_GetAttributeValue(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE_PTR t, CK_ULONG n)
{
	CK_RV rv;
	int leak = 0;
	CK_ULONG i;
	if (fault("C_GetAttributeValue", NONE, &leak, &rv))
		return rv;
	rv = real->C_GetAttributeValue(s, o, t, n);
	for (i = 0; leak && i < n; i++)
		if (t[i].type == CKA_EXTRACTABLE && t[i].pValue)
			*(CK_BBOOL *)t[i].pValue = CK_TRUE;
	return rv;
}

CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR list)
{
	CK_C_GetFunctionList get;
	const char *path = getenv("PROXY_MODULE");
	void *library = path ? dlopen(path, RTLD_NOW) : NULL;
	if (!library || !(get = (CK_C_GetFunctionList)dlsym(library, "C_GetFunctionList")) || get(&real) != CKR_OK)
		return CKR_GENERAL_ERROR;
	ours = *real;
	ours.C_Initialize = p_Initialize;
	ours.C_GetSlotList = p_GetSlotList;
	ours.C_GetTokenInfo = p_GetTokenInfo;
	ours.C_OpenSession = p_OpenSession;
	ours.C_CloseSession = p_CloseSession;
	ours.C_Login = p_Login;
	ours.C_FindObjectsInit = p_FindObjectsInit;
	ours.C_GetAttributeValue = p_GetAttributeValue;
	ours.C_DecryptInit = p_DecryptInit;
	ours.C_Decrypt = p_Decrypt;
	ours.C_SignInit = p_SignInit;
	ours.C_Sign = p_Sign;
	ours.C_GenerateKey = p_GenerateKey;
	ours.C_GenerateKeyPair = p_GenerateKeyPair;
	ours.C_WrapKey = p_WrapKey;
	ours.C_UnwrapKey = p_UnwrapKey;
	*list = &ours;
	return CKR_OK;
}
