package daemon_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	warderv1 "warder/api/warder/v1"
)

// What differs from one answer to the next of the same request.
var (
	incidents  = regexp.MustCompile(`[A-Z2-7]{26}`)
	newValues  = regexp.MustCompile(`"(token|id|expiresAt|createdAt|revision|notAfter|signature|url)": ?"[^"]*"`)
	newNames   = regexp.MustCompile(`new-[0-9]+`)
	oneOfAType = regexp.MustCompile(`"value":"[^"]*","debug"`) // a detail's bytes hold the incident
)

func lasting(body []byte) string {
	text := oneOfAType.ReplaceAllString(incidents.ReplaceAllString(string(body), "ID"), `"value":"…","debug"`)
	return newNames.ReplaceAllString(newValues.ReplaceAllString(text, `"$1":"…"`), "new")
}

// TestDirectAnswersAreConnects asks the methods that have a handler of their own, once in the plain form that goes to it
// and once in a form that goes to Connect's: the two answer alike, and each leaves one record.
func TestDirectAnswersAreConnects(t *testing.T) {
	n, bot := benchNode(t)
	stranger := n.workload(t, "default", "stranger")
	plain, spelled := "application/json", "application/json; charset=utf-8"
	made := 0
	send := func(who caller, procedure, form, body string) answer { // what makes something makes another each time
		made++
		return n.send(t, who, procedure, form, []byte(strings.ReplaceAll(body, "new-0", fmt.Sprintf("new-%d", made))))
	}
	write := hotRequest{
		"write", "/warder.v1.CredentialService/PutCredential",
		`{"namespace":"default","name":"new-0","profile":"static","fields":[{"name":"secret","value":"c2VjcmV0"}]}`, true,
	}
	for _, one := range append(hotRequests(), write) {
		who := bot
		if one.alone {
			who.token = ""
		}
		bodies := map[string]string{
			"good": one.body, "empty": ``, "no field": `{}`, "an unknown field": `{"namespace":"default","nmae":"x"}`, "broken": `{"namespace":`,
			"large": `{"namespace":"` + strings.Repeat("x", 12<<10) + `"}`, "too large": `{"namespace":"` + strings.Repeat("x", 520<<10) + `"}`,
			"of nothing that is": `{"namespace":"default","name":"nothing"}`, "of what is there": strings.ReplaceAll(one.body, "new-0", "static"),
			"escapes": strings.ReplaceAll(one.body, "default", "d\\u0065fault"), "null": strings.Replace(one.body, `"default"`, "null", 1),
			"twice": strings.Replace(one.body, "{", `{"namespace":"default",`, 1),
		}
		for name, body := range bodies {
			for of, caller := range map[string]caller{"its caller": who, "a stranger": stranger, "nobody": n.caller(t, nil)} {
				before := n.records(t)
				direct, connects := send(caller, one.procedure, plain, body), send(caller, one.procedure, spelled, body)
				if records := n.records(t) - before; records != 2 {
					t.Errorf("%s, %s, by %s: %d records; want 2", one.name, name, of, records)
				}
				if direct.status != connects.status || direct.reason != connects.reason || lasting(direct.body) != lasting(connects.body) {
					t.Errorf("%s, %s, by %s: %d %s; Connect says %d %s", one.name, name, of, direct.status, direct.body, connects.status, connects.body)
				}
			}
		}
	}
}

// TestDirectBinary asks in protobuf's own form.
func TestDirectBinary(t *testing.T) {
	n, bot := benchNode(t)
	body, err := proto.Marshal(&warderv1.RevealCredentialRequest{Namespace: "default", Name: "static"})
	if err != nil {
		t.Fatal(err)
	}
	got := n.send(t, bot, reveal, "application/proto", body)
	var answer warderv1.RevealCredentialResponse
	if err := proto.Unmarshal(got.body, &answer); err != nil || got.status != http.StatusOK || len(answer.GetFields()) != 1 {
		t.Errorf("%d %q, %v", got.status, got.body, err)
	}
	got = n.send(t, bot, reveal, "application/proto", body[:len(body)-1])
	if got.status != http.StatusBadRequest || got.reason != "INVALID_ARGUMENT" {
		t.Errorf("a message cut off: %d %s", got.status, got.body)
	}
}

// TestDirectOddRequests sends what only Connect may judge: a body that ends before its time, headers that ask for
// something else than the plain form, other methods. Each is refused, and leaves one record.
func TestDirectOddRequests(t *testing.T) {
	n, bot := benchNode(t)
	body := `{"namespace":"default","name":"static"}`
	for name, odd := range map[string]struct {
		method, header string
		length         int
		status         int
	}{
		"as it should be":    {"POST", "Content-Type: application/json\r\nConnect-Protocol-Version: 1\r\nConnect-Timeout-Ms: 5000\r\n", len(body), 200},
		"no time":            {"POST", "Content-Type: application/json\r\nConnect-Timeout-Ms: 0\r\n", len(body), 504},
		"an odd time":        {"POST", "Content-Type: application/json\r\nConnect-Timeout-Ms: soon\r\n", len(body), 400},
		"another version":    {"POST", "Content-Type: application/json\r\nConnect-Protocol-Version: 2\r\n", len(body), 400},
		"another encoding":   {"POST", "Content-Type: application/json\r\nContent-Encoding: gzip\r\n", len(body), 501},
		"two content types":  {"POST", "Content-Type: application/json\r\nContent-Type: application/proto\r\n", len(body), 200},
		"no content type":    {"POST", "", len(body), 415},
		"another method":     {"PUT", "Content-Type: application/json\r\n", len(body), 405},
		"a body that is cut": {"POST", "Content-Type: application/json\r\n", len(body) + 10, 0},
	} {
		t.Run(name, func(t *testing.T) {
			before := n.records(t)
			got := n.raw(t, bot, fmt.Sprintf("%s %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n%sContent-Length: %d\r\n\r\n%s",
				odd.method, reveal, bot.token, odd.header, odd.length, body), odd.length > len(body))
			if got.status != odd.status && odd.status != 0 || got.status == http.StatusOK && odd.status != http.StatusOK {
				t.Errorf("%d %s; want %d", got.status, got.body, odd.status)
			}
			if records := n.records(t) - before; records != 1 {
				t.Errorf("%d records; want 1", records)
			}
		})
	}
}

// raw sends a request's bytes as they are; cut says that nothing will follow.
func (n *testNode) raw(t testing.TB, who caller, request string, cut bool) answer {
	t.Helper()
	conn, err := tls.Dial("tcp", n.cfg.API.Advertise, &tls.Config{
		Certificates: []tls.Certificate{*who.certificate}, NextProtos: []string{"http/1.1"},
		InsecureSkipVerify: true, //nolint:gosec // the server's name is not what these tests are about
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	if cut {
		if err := conn.CloseWrite(); err != nil {
			t.Fatal(err)
		}
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{status: response.StatusCode, reason: reasonIn(text), body: text}
}
