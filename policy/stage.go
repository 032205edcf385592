package policy

// A stage is a list's place in the life of a message. Postfix names the stage
// and its subject in the replies that are not about a certain fact.
type stage uint8

const (
	stageClient stage = iota
	stageHelo
	stageSender
	stageRelay
	stageRecipient
	stageData
	stageEndOfData
	stageCount
)

// key is the stage's name in the configuration.
func (s stage) key() string {
	return [stageCount]string{
		"client", "helo", "sender", "relay", "recipient", "data", "end_of_data",
	}[s]
}

// class is what Postfix calls the subject of the stage.
func (s stage) class() string {
	return [stageCount]string{
		classClient, classHelo, classSender, classRecipient, classRecipient,
		"Data command", "End-of-data",
	}[s]
}

const (
	classClient    = "Client host"
	classHelo      = "Helo command"
	classSender    = "Sender address"
	classRecipient = "Recipient address"
)

// subject is what the list of this stage judges.
func (s stage) subject(r *Request) string {
	switch s {
	case stageClient:
		// Postfix calls a client "unknown" whose name it does not know, and
		// we look up none.
		return "unknown[" + r.Remote.Addr().Unmap().String() + "]"
	case stageHelo:
		return r.Helo
	case stageSender:
		return r.senderSent()
	case stageRelay, stageRecipient:
		return r.recipientSent()
	case stageData:
		return "DATA"
	}
	return "END-OF-MESSAGE"
}

// hasRecipient tells whether a single recipient is known: at DATA there are
// many.
func (s stage) hasRecipient() bool { return s < stageData }
