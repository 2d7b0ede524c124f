// The program in the pods of the node tests: a WebSocket echo server that greets with its pod's name. Plain requests
// also get the name.
//
// On SIGTERM it keeps serving for LINGER (a duration, default 0s), like a backend that lets its users finish; then it
// closes its sockets with 1001 and exits. Without the variable POD it only waits, like a pod's pause container.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/coder/websocket"
)

func main() {
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM, syscall.SIGINT)
	pod, serves := os.LookupEnv("POD")
	if !serves {
		<-terminated
		return
	}
	linger, err := time.ParseDuration(or(os.Getenv("LINGER"), "0s"))
	if err != nil {
		panic(err)
	}
	backend := &backend{pod: pod, sockets: map[*websocket.Conn]struct{}{}}
	server := &http.Server{Addr: ":8080", Handler: backend}
	go func() {
		if err := server.ListenAndServe(); err != http.ErrServerClosed {
			panic(err)
		}
	}()
	<-terminated
	time.Sleep(linger)
	// Stop accepting first: a socket that is not registered yet could not be closed.
	if err := server.Shutdown(context.Background()); err != nil {
		panic(err)
	}
	backend.end()
}

func or(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}

type backend struct {
	pod     string
	mutex   sync.Mutex
	sockets map[*websocket.Conn]struct{}
}

func (backend *backend) ServeHTTP(response http.ResponseWriter, request *http.Request) {
	if request.Header.Get("Upgrade") == "" {
		fmt.Fprintln(response, backend.pod)
		return
	}
	// Checking browsers' origins is up to the proxy.
	socket, err := websocket.Accept(response, request, &websocket.AcceptOptions{InsecureSkipVerify: true})
	if err != nil {
		return // The client has been answered.
	}
	backend.keep(socket)
	defer backend.forget(socket)
	echo(request.Context(), socket, backend.pod)
}

// Ends when the client closes, or the connection is lost, or the program ends.
func echo(ctx context.Context, socket *websocket.Conn, pod string) {
	err := socket.Write(ctx, websocket.MessageText, []byte(pod))
	for err == nil {
		var kind websocket.MessageType
		var message []byte
		if kind, message, err = socket.Read(ctx); err == nil {
			err = socket.Write(ctx, kind, message)
		}
	}
}

func (backend *backend) keep(socket *websocket.Conn) {
	backend.mutex.Lock()
	defer backend.mutex.Unlock()
	backend.sockets[socket] = struct{}{}
}

func (backend *backend) forget(socket *websocket.Conn) {
	backend.mutex.Lock()
	defer backend.mutex.Unlock()
	delete(backend.sockets, socket)
}

func (backend *backend) end() {
	backend.mutex.Lock()
	defer backend.mutex.Unlock()
	var ended sync.WaitGroup
	for socket := range backend.sockets {
		ended.Go(func() { socket.Close(websocket.StatusGoingAway, "the pod ends") })
	}
	ended.Wait()
}
